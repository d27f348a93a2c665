//! A picture of a run: a lane per actor, coloured by what it did when.
//!
//! Spans shorter than a pixel are many: each pixel of a lane takes the colour of what filled most
//! of it, so the picture's size does not depend on the run's length.

use std::fmt::Write;

use super::analysis::Analysis;
use super::read::{Activity, Lane, Trace};
use super::verdict::verdict;

/// Width of a lane in pixels, and what lies around it.
const WIDTH: usize = 1200;
const LEFT: usize = 190;
const TOP: usize = 74;
const HEIGHT: usize = 16;
const STEP: usize = 22;
const GROUP: usize = 8;

/// What has a colour, with its name in the legend (Okabe and Ito's colours).
const COLOURS: [(&str, &str, &[Activity]); 9] = [
    ("compute", "#0072b2", &[Activity::Compute]),
    ("wait for data", "#d55e00", &[Activity::WaitData]),
    (
        "wait for others",
        "#cc79a7",
        &[Activity::WaitGradient, Activity::WaitTicket, Activity::WaitTurn],
    ),
    (
        "update, aggregate",
        "#009e73",
        &[Activity::Update, Activity::Push, Activity::Aggregate, Activity::Apply],
    ),
    ("read", "#e69f00", &[Activity::Read, Activity::ReadTest]),
    ("exchange", "#56b4e9", &[Activity::Exchange]),
    ("test", "#b8a9d9", &[Activity::Test]),
    ("snapshot", "#222222", &[Activity::Snapshot]),
    ("start, drain", "#bbbbbb", &[Activity::Start, Activity::Drain]),
];

/// A lane, cut into pixels.
struct Strip {
    title: String,
    /// First pixel, one behind the last, and colour.
    runs: Vec<(usize, usize, usize)>,
}

/// The picture as SVG; between two times in seconds after training's begin, if given.
pub fn svg(trace: &Trace, part: Option<(f64, f64)>) -> Option<String> {
    let analysis = Analysis::of(trace)?;
    let (begin, end) = analysis.window;
    let window = match part {
        Some((from, to)) => (begin + from, (begin + to).min(end)),
        None => (begin, end),
    };
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
    let height = TOP + lanes * STEP + groups.len() * GROUP + 40;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = draw(&mut text, height, &title, &verdict(trace, &analysis), &groups, begin, window);
    Some(text)
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

fn draw(
    out: &mut String,
    height: usize,
    title: &str,
    verdict: &str,
    groups: &[(String, Vec<Strip>)],
    begin: f64,
    (from, to): (f64, f64),
) -> std::fmt::Result {
    let width = LEFT + WIDTH + 30;
    writeln!(
        out,
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 \
         {width} {height}' font-family='DejaVu Sans, sans-serif' font-size='12' fill='#222222'>\n\
         <rect width='{width}' height='{height}' fill='#ffffff'/>\n\
         <text x='12' y='22' font-size='15'>{}</text>\n<text x='12' y='42'>{}</text>",
        escape(title),
        escape(verdict)
    )?;
    let mut x = 12;
    for (name, colour, _) in &COLOURS {
        writeln!(
            out,
            "<rect x='{x}' y='53' width='12' height='12' fill='{colour}'/><text x='{}' y='63'>{name}</text>",
            x + 17
        )?;
        x += 40 + 7 * name.len();
    }
    let mut y = TOP + 6;
    for (name, strips) in groups {
        writeln!(out, "<text x='12' y='{}' font-weight='bold'>{}</text>", y + 13, escape(name))?;
        y += STEP;
        for strip in strips {
            writeln!(out, "<text x='24' y='{}'>{}</text>", y + 13, escape(&strip.title))?;
            writeln!(
                out,
                "<rect x='{LEFT}' y='{y}' width='{WIDTH}' height='{HEIGHT}' fill='#f3f3f3'/>"
            )?;
            for (first, behind, colour) in &strip.runs {
                let (x, wide, colour) = (LEFT + first, behind - first, COLOURS[*colour].1);
                writeln!(
                    out,
                    "<rect x='{x}' y='{y}' width='{wide}' height='{HEIGHT}' fill='{colour}'/>"
                )?;
            }
            y += STEP;
        }
        y += GROUP;
    }
    for tick in 0..=10 {
        let x = LEFT + tick * WIDTH / 10;
        let seconds = from - begin + (to - from) * tick as f64 / 10.0;
        writeln!(
            out,
            "<line x1='{x}' x2='{x}' y1='{}' y2='{y}' stroke='#222222' stroke-opacity='0.15'/>\
             <text x='{x}' y='{}' text-anchor='middle'>{seconds:.3} s</text>",
            TOP + STEP,
            y + 14
        )?;
    }
    out.push_str("</svg>\n");
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
