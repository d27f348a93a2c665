//! How much a file may hold.
//!
//! A few bytes of a file can become some hundred bytes of a message (`layer {}`), so that a damaged
//! or hostile file of modest size could take all memory. No net that anybody trains comes near
//! these numbers.

/// Most layers of a net.
pub const MAX_LAYERS: usize = 10_000;

/// Most bytes of a prototxt.
pub const MAX_TEXT: usize = 16 << 20;

/// Most messages and strings within one file.
pub const MAX_PARTS: usize = 250_000;

/// Most bytes of one list of whole numbers, such as the extents of a shape, in a binary file.
pub(crate) const MAX_NUMBERS: usize = 1 << 20;

/// Whether this field of this message (without its package) holds a net's layers.
pub(crate) fn holds_layers(message: &str, field: &str) -> bool {
    message == "NetParameter" && matches!(field, "layer" | "layers")
}
