//! What the text parser reads, and what it says about what it does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use caffe_proto::{
    NetParameter, Phase, SolverParameter,
    text::{Fault, TextError, parse, print},
};

fn net(text: &str) -> NetParameter {
    parse("t", text).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> TextError {
    match parse::<NetParameter>("t", text) {
        Ok(net) => panic!("{text:?} was read as\n{}", print(&net)),
        Err(error) => error,
    }
}

/// The place and the first hint of the error in a net.
fn place(text: &str) -> (usize, usize, String) {
    let error = error(text);
    (error.line(), error.column(), error.hints().first().cloned().unwrap_or_default())
}

#[test]
fn reads_all_spellings_of_the_format() {
    let net = net(r#"
name: 'Le' "Net" # adjacent strings, a comment
layer { name: "data" type: "Data" top: "data" top: "label"
  include { phase: TRAIN }
  transform_param { scale: .00390625 mirror: true crop_size: 227 mean_value: [104, 117.5, 1e2] }
  data_param { source: "x\x41\n\101\u00e9" backend: 1 batch_size: 64 } };
layer: <
  name: "conv1", type: "Convolution"; bottom: "data" top: "conv1"
  param { lr_mult: 1 } param: < lr_mult: 2.f decay_mult: -0 >
  convolution_param { num_output: 0x14 kernel_size: 010 stride: 1pad: 2 axis: - 1
    weight_filler { type: "xavier" std: 1e-3 } bias_filler { value: -inf } }
>
layer [ { name: "a" }, { name: "b" loss_weight: NaN loss_weight: [] } ]
force_backward: t debug_info: 0
"#);
    assert_eq!(net.name(), "LeNet");
    assert_eq!(net.layer.len(), 4);
    let data = &net.layer[0];
    assert_eq!(data.include[0].phase(), Phase::Train);
    let transform = data.transform_param.as_deref().unwrap();
    assert_eq!((transform.scale(), transform.mirror()), (0.00390625, true));
    assert_eq!(transform.mean_value, [104.0, 117.5, 100.0]);
    assert_eq!(data.data_param.as_ref().unwrap().source(), "xA\nAé");
    let conv = net.layer[1].convolution_param.as_deref().unwrap();
    assert_eq!((conv.num_output(), &conv.kernel_size[..], conv.axis()), (20, &[8][..], -1));
    assert_eq!((&conv.stride[..], &conv.pad[..]), (&[1][..], &[2][..]));
    assert_eq!(conv.bias_filler.as_ref().unwrap().value(), f32::NEG_INFINITY);
    let param = &net.layer[1].param[1];
    assert_eq!((param.lr_mult(), param.decay_mult().to_bits()), (2.0, (-0.0_f32).to_bits()));
    assert!(net.layer[3].loss_weight[0].is_nan());
    assert!(net.force_backward() && !net.debug_info());
}

#[test]
fn reads_line_ends_and_marks_of_other_systems() {
    let net = net("\u{feff}name: 'bom'\r\nforce_backward: True\r\n");
    assert_eq!((net.name(), net.force_backward()), ("bom", true));
    assert_eq!(parse::<NetParameter>("t", "").unwrap(), NetParameter::default());
}

#[test]
fn strings_may_run_over_lines() {
    let net = net("layer { python_param { param_str: '{\n  1\n}' } }");
    assert_eq!(net.layer[0].python_param.as_ref().unwrap().param_str(), "{\n  1\n}");
}

#[test]
fn numbers_reach_the_ends_of_their_types() {
    let net = net("input_dim: -2147483648 input_dim: 2147483647
        input_shape { dim: -9223372036854775808 dim: 0x7fffffffffffffff }
        layer { loss_weight: 1e50 loss_weight: 1e-60 loss_weight: 16777217
                concat_param { concat_dim: 4294967295 } }");
    assert_eq!(net.input_dim, [i32::MIN, i32::MAX]);
    assert_eq!(net.input_shape[0].dim, [i64::MIN, i64::MAX]);
    assert_eq!(net.layer[0].loss_weight, [f32::INFINITY, 0.0, 16777216.0]);
    assert_eq!(net.layer[0].concat_param.as_ref().unwrap().concat_dim(), u32::MAX);
}

#[test]
fn an_error_shows_place_line_and_advice() {
    let text = "name: \"LeNet\"\nlayer {\n  name: \"conv1\"\n  convolution_param {\n    num_ouput: 20\n  }\n}\n";
    let error = parse::<NetParameter>("nets/lenet.prototxt", text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nets/lenet.prototxt:5:5: ConvolutionParameter has no field `num_ouput`\n     \
         5 |     num_ouput: 20\n       |     ^^^^^^^^^\ndid you mean `num_output`?"
    );
    assert_eq!(error.origin(), "nets/lenet.prototxt");
}

#[test]
fn misspelt_names_get_the_right_one() {
    let cases = [
        ("layers_ { }", "did you mean `layers`?"),
        ("layer { botom: 'x' }", "did you mean `bottom`?"),
        ("layer { LossWeight: 1 }", "did you mean `loss_weight`?"),
        ("layer { include { phase: TRIAN } }", "did you mean `TRAIN`?"),
        ("layer { include { phase: train } }", "did you mean `TRAIN`?"),
        ("layer { pooling_param { pool: AVG } }", "did you mean `AVE`?"),
        ("layer { pooling_param { pool: MEDIAN } }", "its values are `MAX`, `AVE`, `STOCHASTIC`"),
        ("layer { include { phase: 7 } }", "its values are `TRAIN`, `TEST`"),
        (
            "layer { num_output: 3 }",
            "`num_output` belongs inside `convolution_param { … }`, `inner_product_param { … }` or \
             `embed_param { … }`",
        ),
        ("layer { dropout_ratio: 1 }", "`dropout_ratio` belongs inside `dropout_param { … }`"),
        ("layer { zebra: 1 }", ""),
    ];
    for (text, hint) in cases {
        assert_eq!(place(text).2, hint, "{text}");
    }
}

#[test]
fn mixed_up_forms_and_files_are_told_apart() {
    let cases = [
        ("layer { blobs_lr: 1 }", "param { lr_mult: … }"),
        ("layer { type: CONVOLUTION }", "write the type in quotes, like \"Convolution\""),
        ("layers { type: \"Convolution\" }", "for types in quotes write `layer { … }`"),
        ("layer { type: Convolution }", "write it in quotes: \"Convolution\""),
        ("layer { include { phase: \"TRAIN\" } }", "without quotes"),
        ("base_lr: 0.1", "is this a solver file where a net file is needed?"),
        ("name = 'x'", "fields are written `name: value`"),
        ("// comment\nname: 'x'", "comments begin with `#`"),
        ("name: “x”", "plain quotes"),
        ("layer { [caffe.ext]: 1 }", "extensions are no part"),
    ];
    for (text, hint) in cases {
        let found = place(text).2;
        assert!(found.contains(hint), "{text}: {found}");
    }
    let error = parse::<SolverParameter>("t", "name: 'x'").unwrap_err();
    assert!(error.hints()[0].contains("is this a net file where a solver file is needed?"));
}

#[test]
fn faults_stand_where_they_are() {
    let cases = [
        ("name: \"x\"\nlayer {\n  nam: \"y\"\n}\n", (3, 3)),
        ("layer { name: 3 }", (1, 15)),
        ("layer { name \"x\" }", (1, 14)),
        ("layer {", (1, 7)),
        ("layer {\n  param {\n}\n", (1, 7)),
        ("layer { > }", (1, 9)),
        ("}", (1, 1)),
        ("name: \"unterminated\n", (1, 7)),
        ("layer { convolution_param { num_output: -3 } }", (1, 41)),
        ("layer { loss_weight: 1,5 }", (1, 24)),
        ("force_backward: yes", (1, 17)),
        ("force_backward: 2", (1, 17)),
        ("name: \"\\xff\"", (1, 7)),
        ("layer { phase: 7 }", (1, 16)),
        ("layer { phase: -1 }", (1, 16)),
        ("input_dim: 1.0", (1, 12)),
        ("input_dim: 3000000000", (1, 12)),
        ("input_dim: 99999999999999999999999999999999999999999999", (1, 12)),
        ("layer { loss_weight: 0x10 }", (1, 22)),
        ("layer: 3", (1, 8)),
        ("layer { name: 'é' nope: 1 }", (1, 19)),
        ("name: 'x'\n\n  @", (3, 3)),
        ("layer { loss_weight: [1 2] }", (1, 25)),
        ("layer { loss_weight: [1, ] }", (1, 26)),
        ("name: ['a']", (1, 7)),
        ("name:", (1, 6)),
        ("force_backward: true;;", (1, 22)),
    ];
    for (text, at) in cases {
        let (line, column, _) = place(text);
        assert_eq!((line, column), at, "{text:?}\n{}", error(text));
    }
}

#[test]
fn a_field_set_twice_names_the_first_line() {
    let error = error("name: 'a'\nlayer { }\nname: 'b'");
    assert_eq!((error.line(), error.column()), (3, 1));
    assert_eq!(*error.fault(), Fault::SetTwice { field: "name".into(), first_line: 1 });
    let error = self::error("layer { data_param { } data_param { } }");
    assert!(matches!(error.fault(), Fault::SetTwice { .. }), "{error}");
}

#[test]
fn a_required_field_is_missed() {
    let error = error("layer {\n  clip_param { min: 0 }\n}");
    assert_eq!((error.line(), error.column()), (2, 14));
    assert!(error.to_string().contains("ClipParameter needs the field `max`"), "{error}");
}

#[test]
fn a_forgotten_quote_is_found_though_the_fault_shows_later() {
    let text = "layer {\n  name: \"conv1\n  type: \"Convolution\"\n}\n";
    let error = error(text);
    let hint = error.hints().last().unwrap();
    assert_eq!(error.line(), 3);
    assert!(hint.contains("opened on line 2"), "{error}");
}
