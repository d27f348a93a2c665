use super::*;

fn points(n: u32, of: impl Fn(f64) -> f64) -> Vec<[f64; 2]> {
    (0..n).map(|i| [f64::from(i), of(f64::from(i))]).collect()
}

fn chart() -> Chart {
    let losses = Panel {
        title: "loss <&>".into(),
        x: Axis::linear("iterations"),
        y: Axis::log(""),
        series: vec![
            Series::line("first", points(50, |x| 2.3 / (1.0 + x))),
            Series::line("second", points(50, |x| 3.0 / (1.0 + x))).styled(Style::nth(1)),
        ],
    };
    let waits = Panel {
        title: "waiting".into(),
        x: Axis::named(["reader", "device"].map(String::from)),
        y: Axis::linear("ms"),
        series: vec![Series::line("bars", points(2, |x| 1.0 + x)).marked(Mark::Bars)],
    };
    Chart { title: "both".into(), columns: 2, panels: vec![losses, waits] }
}

#[test]
fn an_svg_has_lines_bars_ticks_and_a_legend() {
    let svg = chart().svg();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("loss &lt;&amp;&gt;") && !svg.contains("<&"));
    for word in ["first", "second", "bars", "reader", "device", "iterations", "waiting, ms", "0.1"]
    {
        assert_eq!(svg.matches(&format!(">{word}</text>")).count(), 1, "{word}");
    }
    // One of them dashed: in the legend and in the panel.
    assert_eq!(svg.matches("stroke-dasharray").count(), 2);
}

#[test]
fn a_png_shows_the_same_in_twice_the_size() {
    let bytes = chart().png().unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let chart = chart();
    let page = layout::Page::of(&chart);
    assert_eq!([info.width, info.height], [page.width * 2.0, page.height * 2.0].map(|s| s as u32));
    let channels = info.color_type.samples();
    let count = |rgb: [u8; 3]| pixels.chunks(channels).filter(|p| p[..3] == rgb).count();
    for colour in [canvas::COLOURS[0], canvas::COLOURS[1], canvas::INK, canvas::GRID] {
        assert!(count(colour) > 100, "{colour:?}");
    }
}

#[test]
fn whatever_the_points_a_chart_is_drawn() {
    let odd = vec![[0.0, f64::NAN], [f64::INFINITY, 1.0], [1e300, -1e300], [-1e300, 1e300]];
    for points in [vec![], vec![[1.0, 1.0]], odd, vec![[0.0, 0.0]; 3]] {
        for mark in [Mark::Line, Mark::Dots, Mark::Bars] {
            for y in [Axis::linear(""), Axis::log("")] {
                let series = vec![Series::line("", points.clone()).marked(mark)];
                let panel = Panel { title: "".into(), x: Axis::linear(""), y, series };
                let chart = Chart { title: "".into(), columns: 0, panels: vec![panel] };
                assert!(!chart.svg().contains("NaN"));
                chart.png().unwrap();
            }
        }
    }
    assert!(Chart::default().png().is_ok());
}

#[test]
fn only_svg_and_png_are_known() {
    let dir = tempfile::tempdir().unwrap();
    chart().save(&dir.path().join("a.SVG")).unwrap();
    chart().save(&dir.path().join("a.png")).unwrap();
    let error = chart().save(&dir.path().join("a.jpg")).unwrap_err().to_string();
    assert!(error.contains("a.jpg") && error.contains(".svg or .png"), "{error}");
}
