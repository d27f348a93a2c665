//! A picture of a run: a lane per actor, coloured by what it did when.
//!
//! Spans shorter than a pixel are many: each pixel of a lane takes the colour of what filled most
//! of it, so the picture's size does not depend on the run's length.

use std::path::Path;

use super::analysis::Analysis;
use super::read::{Activity, Lane, Trace};
use super::verdict::verdict;
use crate::tools::chart::{Anchor, Area, Canvas, Stroke, Text, save};
use crate::{Result, bail, ensure};

/// Width of a lane in pixels, and what lies around it.
const WIDTH: usize = 1200;
const LEFT: f32 = 150.0;
const TOP: f32 = 74.0;
const HEIGHT: f32 = 16.0;
const STEP: usize = 22;
const GROUP: usize = 8;
const EMPTY: [u8; 3] = [0xf3; 3];

/// What has a colour, with its name in the legend (Okabe and Ito's colours).
const COLOURS: [(&str, [u8; 3], &[Activity]); 9] = [
    ("compute", [0x00, 0x72, 0xb2], &[Activity::Compute]),
    ("wait for data", [0xd5, 0x5e, 0x00], &[Activity::WaitData]),
    (
        "wait for others",
        [0xcc, 0x79, 0xa7],
        &[Activity::WaitGradient, Activity::WaitTicket, Activity::WaitTurn],
    ),
    (
        "update, aggregate",
        [0x00, 0x9e, 0x73],
        &[Activity::Update, Activity::Push, Activity::Aggregate, Activity::Apply],
    ),
    ("read", [0xe6, 0x9f, 0x00], &[Activity::Read, Activity::ReadTest]),
    ("exchange", [0x56, 0xb4, 0xe9], &[Activity::Exchange]),
    ("test", [0xb8, 0xa9, 0xd9], &[Activity::Test]),
    ("snapshot", [0x22, 0x22, 0x22], &[Activity::Snapshot]),
    ("start, drain", [0xbb, 0xbb, 0xbb], &[Activity::Start, Activity::Drain]),
];

/// A lane, cut into pixels.
struct Strip {
    title: String,
    /// First pixel, one behind the last, and colour.
    runs: Vec<(usize, usize, usize)>,
}

/// Draws a run into the file `out`; between two times in seconds after training's begin.
///
/// # Errors
/// A run without training, a name that ends neither in `.svg` nor in `.png`, a file that cannot be
/// written.
pub fn draw(trace: &Trace, (from, to): (f64, f64), out: &Path) -> Result<()> {
    let Some(analysis) = Analysis::of(trace) else {
        bail!("the trace has no device that trained: nothing to draw");
    };
    let (begin, end) = analysis.window;
    let window = (begin + from, (begin + to).min(end));
    ensure!(
        window.0 < window.1,
        "nothing lies between {from} s and {to} s: training took {:.3} s",
        end - begin
    );
    let groups: Vec<(String, Vec<Strip>)> = trace
        .ranks
        .iter()
        .map(|rank| {
            let drawn = |lane: &&Lane| !matches!(lane.title.as_str(), "main" | "");
            let strips = rank.lanes.iter().filter(drawn).map(|lane| strip(lane, window));
            (format!("rank {} ({})", rank.rank, rank.host), strips.collect())
        })
        .collect();
    let title = format!(
        "{} ranks, {} replicas, mode {}: {:.3} s",
        trace.ranks.len(),
        analysis.devices.len(),
        trace.mode,
        window.1 - window.0
    );
    let lanes: usize = groups.iter().map(|(_, strips)| strips.len() + 1).sum();
    let height = TOP + (lanes * STEP + groups.len() * GROUP) as f32 + 40.0;
    let verdict = verdict(trace, &analysis);
    let seconds = (window.0 - begin, window.1 - begin);
    save(out, [LEFT + WIDTH as f32 + 40.0, height], &|canvas| {
        words(canvas, &title, &verdict);
        let bottom = rows(canvas, &groups);
        ticks(canvas, bottom, seconds);
    })
}

fn strip(lane: &Lane, (from, to): (f64, f64)) -> Strip {
    let scale = WIDTH as f64 / (to - from);
    let mut filled = vec![[0.0f64; COLOURS.len()]; WIDTH];
    for span in lane.spans.iter().filter(|span| span.end > from && span.start < to) {
        let Some(colour) = COLOURS.iter().position(|(_, _, all)| all.contains(&span.what)) else {
            continue;
        };
        let [start, end] =
            [span.start, span.end].map(|t| ((t - from) * scale).clamp(0.0, WIDTH as f64));
        let last = (end.ceil() as usize).min(WIDTH);
        for (pixel, filled) in filled.iter_mut().enumerate().take(last).skip(start as usize) {
            filled[colour] += end.min(pixel as f64 + 1.0) - start.max(pixel as f64);
        }
    }
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (pixel, filled) in filled.iter().enumerate() {
        let most = (0..COLOURS.len()).max_by(|a, b| filled[*a].total_cmp(&filled[*b])).unwrap_or(0);
        // A pixel that is mostly idle stays white, so that rare short spans do not look like work.
        if filled.iter().sum::<f64>() < 0.5 {
            continue;
        }
        match runs.last_mut() {
            Some((_, behind, colour)) if *behind == pixel && *colour == most => *behind += 1,
            _ => runs.push((pixel, pixel + 1, most)),
        }
    }
    Strip { title: lane.title.clone(), runs }
}

fn words(canvas: &mut dyn Canvas, title: &str, verdict: &str) {
    canvas.text([12.0, 22.0], text(15.0, Anchor::Start), title);
    canvas.text([12.0, 42.0], text(12.0, Anchor::Start), verdict);
    let mut left = 12.0;
    for (name, colour, _) in &COLOURS {
        canvas.fill(Area { left, top: 53.0, width: 12.0, height: 12.0 }, *colour);
        canvas.text([left + 17.0, 63.0], text(12.0, Anchor::Start), name);
        left += 42.0 + 7.0 * name.len() as f32;
    }
}

/// The lanes; where they end.
fn rows(canvas: &mut dyn Canvas, groups: &[(String, Vec<Strip>)]) -> f32 {
    let mut top = TOP + 6.0;
    for (name, strips) in groups {
        canvas.text([12.0, top + 13.0], text(13.0, Anchor::Start), name);
        top += STEP as f32;
        for strip in strips {
            canvas.text([24.0, top + 13.0], text(12.0, Anchor::Start), &strip.title);
            let lane = Area { left: LEFT, top, width: WIDTH as f32, height: HEIGHT };
            canvas.fill(lane, EMPTY);
            for (first, behind, colour) in &strip.runs {
                let (left, width) = (LEFT + *first as f32, (behind - first) as f32);
                canvas.fill(Area { left, width, ..lane }, COLOURS[*colour].1);
            }
            top += STEP as f32;
        }
        top += GROUP as f32;
    }
    top
}

fn ticks(canvas: &mut dyn Canvas, bottom: f32, (from, to): (f64, f64)) {
    for tick in 0..=10u8 {
        let x = LEFT + f32::from(tick) * WIDTH as f32 / 10.0;
        let seconds = from + (to - from) * f64::from(tick) / 10.0;
        let stroke = Stroke { colour: [0xcc; 3], width: 0.5, dash: &[] };
        canvas.line(&[[x, TOP + STEP as f32], [x, bottom]], stroke);
        canvas.text([x, bottom + 14.0], text(11.0, Anchor::Middle), &format!("{seconds:.3} s"));
    }
}

fn text(size: f32, anchor: Anchor) -> Text {
    Text { size, colour: [0x22; 3], anchor }
}
