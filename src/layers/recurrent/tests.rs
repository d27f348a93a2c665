//! Tests of LSTM and RNN together.

use caffe_proto::Phase;

use crate::layers::testing::{net, set, try_net, values};
use crate::net::Net;

/// A net of Input layers b0, b1, … and one recurrent layer on them.
fn text(kind: &str, bottoms: &[&str], tops: &str, param: &str) -> String {
    let input = |(i, dims): (usize, &&str)| {
        format!(
            "layer {{ name: 'b{i}' type: 'Input' top: 'b{i}' input_param {{ shape {{ {dims} }} }} }} "
        )
    };
    let inputs: String = bottoms.iter().enumerate().map(input).collect();
    let names: String = (0..bottoms.len()).map(|i| format!("bottom: 'b{i}' ")).collect();
    format!(
        "{inputs} layer {{ name: 'r' type: '{kind}' {names} {tops} recurrent_param {{ num_output: 3 \
         weight_filler {{ type: 'gaussian' std: 0.8 }} bias_filler {{ value: 0.2 }} {param} }} }}"
    )
}

fn inputs(range: std::ops::Range<usize>) -> Vec<f32> {
    range.map(|i| (i as f32 * 1.3).sin()).collect()
}

/// One pass over `steps` steps of 2 sequences that go on.
fn pass(net: &mut Net, steps: std::ops::Range<usize>) -> Vec<f32> {
    set(net, "b0", &inputs(steps.start * 8..steps.end * 8));
    set(net, "b1", &vec![1.0; steps.len() * 2]);
    net.forward().unwrap();
    values(net, "y")
}

#[test]
fn a_pass_begins_where_the_last_one_ended() {
    for kind in ["LSTM", "RNN"] {
        let of = |steps: usize| {
            let (x, cont) = (format!("dim: {steps} dim: 2 dim: 4"), format!("dim: {steps} dim: 2"));
            net(&text(kind, &[&x, &cont], "top: 'y'", ""), Phase::Test)
        };
        let (mut long, mut short) = (of(4), of(2));
        let whole = pass(&mut long, 0..4);
        assert_eq!(pass(&mut short, 0..2), whole[..12], "{kind}");
        assert_eq!(pass(&mut short, 2..4), whole[12..], "{kind}");
        // A sequence that begins remembers nothing.
        let again = pass(&mut short, 0..2);
        assert_ne!(again, whole[..12], "{kind}");
        set(&mut short, "b1", &[0.0, 0.0, 1.0, 1.0]);
        short.forward().unwrap();
        assert_eq!(values(&mut short, "y"), whole[..12], "{kind}");
    }
}

#[test]
fn exposed_states_are_handed_over() {
    for (kind, states) in [("LSTM", &["h", "c"][..]), ("RNN", &["h"])] {
        let (x, cont, state) = ("dim: 2 dim: 2 dim: 4", "dim: 2 dim: 2", "dim: 1 dim: 2 dim: 3");
        let tops: String = states.iter().map(|s| format!("top: '{s}' ")).collect();
        let bottoms: Vec<&str> =
            [x, cont].into_iter().chain(states.iter().map(|_| state)).collect();
        let tops = format!("top: 'y' {tops}");
        let mut exposed = net(&text(kind, &bottoms, &tops, "expose_hidden: true"), Phase::Test);
        let mut kept = net(&text(kind, &[x, cont], "top: 'y'", ""), Phase::Test);
        for p in 0..kept.arena().params().len() {
            let weights = kept.params().values(p).unwrap().to_vec();
            exposed.params().set_values(p, &weights).unwrap();
        }
        assert_eq!(pass(&mut exposed, 0..2), pass(&mut kept, 0..2));
        for (i, state) in states.iter().enumerate() {
            let state = values(&mut exposed, state);
            set(&mut exposed, &format!("b{}", 2 + i), &state);
        }
        assert_eq!(pass(&mut exposed, 2..4), pass(&mut kept, 2..4), "{kind}");
    }
}

#[test]
fn an_input_that_is_the_same_in_every_step_is_one_more_part_of_each() {
    for kind in ["LSTM", "RNN"] {
        let (cont, fixed) = ("dim: 2 dim: 2", "dim: 2 dim: 1 dim: 5");
        let mut apart =
            net(&text(kind, &["dim: 2 dim: 2 dim: 4", cont, fixed], "top: 'y'", ""), Phase::Test);
        let mut joined =
            net(&text(kind, &["dim: 2 dim: 2 dim: 9", cont], "top: 'y'", ""), Phase::Test);
        // W_xc and W_xc_static side by side.
        let (w, s) = (
            apart.params().values(0).unwrap().to_vec(),
            apart.params().values(2).unwrap().to_vec(),
        );
        let both: Vec<f32> =
            w.chunks(4).zip(s.chunks(5)).flat_map(|(w, s)| [w, s].concat()).collect();
        joined.params().set_values(0, &both).unwrap();
        for (from, to) in (3..apart.arena().params().len()).zip(2..) {
            let weights = apart.params().values(from).unwrap().to_vec();
            joined.params().set_values(to, &weights).unwrap();
        }
        let (x, fixed) = (inputs(0..16), inputs(50..60));
        set(&mut apart, "b2", &fixed);
        let rows = x.chunks(4).enumerate();
        let x_joined: Vec<f32> =
            rows.flat_map(|(row, x)| [x, &fixed[row % 2 * 5..][..5]].concat()).collect();
        set(&mut joined, "b0", &x_joined);
        set(&mut joined, "b1", &[1.0; 4]);
        joined.forward().unwrap();
        let (a, b) = (pass(&mut apart, 0..2), values(&mut joined, "y"));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{kind}: {a:?} {b:?}");
    }
}

#[test]
fn bottoms_that_do_not_fit_are_named_with_both_shapes() {
    let (x, cont, state) = ("dim: 2 dim: 3 dim: 4", "dim: 2 dim: 3", "dim: 1 dim: 3 dim: 3");
    for (bottoms, param, said) in [
        (vec![x, "dim: 3 dim: 2"], "", ["2 3 (6)", "3 2 (6)"]),
        (vec![x, "dim: 2 dim: 3 dim: 1"], "", ["2 3 (6)", "2 3 1 (6)"]),
        (vec!["dim: 2 dim: 3", cont], "", ["T (steps), N (sequences)", "2 3 (6)"]),
        (vec![x, cont, "dim: 4 dim: 2"], "", ["2 3 4 (24)", "4 2 (8)"]),
        (vec![x, cont], "expose_hidden: true", ["h, c because of expose_hidden", "names 2"]),
        (vec![x, cont, state, state], "", ["takes the bottoms x and cont", "names 4"]),
        (
            vec![x, cont, "dim: 1 dim: 3 dim: 4", state],
            "expose_hidden: true",
            ["1 3 3 (9)", "1 3 4 (12)"],
        ),
        (vec![x, cont], "debug_info: true", ["remove debug_info", "layer `r` (LSTM)"]),
    ] {
        let tops =
            if param.starts_with("expose") { "top: 'y' top: 'h' top: 'c'" } else { "top: 'y'" };
        let message = try_net(&text("LSTM", &bottoms, tops, param), Phase::Test);
        let message = message.err().unwrap().to_string();
        assert!(said.iter().all(|said| message.contains(said)), "{message}");
    }
    let text = text("RNN", &[x, cont], "top: 'y'", "").replace("num_output: 3", "");
    let message = try_net(&text, Phase::Test).err().unwrap().to_string();
    assert!(message.contains("needs num_output"), "{message}");
}
