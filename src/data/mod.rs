//! temp
/// A batch.
#[derive(Default)]
pub struct Batch { 
/// tops
pub tops: Vec<Vec<f32>> }
