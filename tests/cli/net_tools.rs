//! `caffe net`, the rates of `caffe time`, and `caffe parse_log`.

use std::fs;

use crate::support::{Folder, caffe, fails, succeeds, text};

/// A convolution 3 × 3 with 4 outputs over 2 channels of 5 × 5, then an inner product.
const NET: &str = "name: 'small'
layer { name: 'in' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 2 dim: 5 dim: 5 } } }
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: 'xavier' } } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'ip' type: 'InnerProduct' bottom: 'conv' top: 'ip'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'prob' type: 'Softmax' bottom: 'ip' top: 'prob' include { phase: TEST } }
";

#[test]
fn summary_counts_from_the_definition() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", NET);
    let (out, _) = succeeds(&["net", "summary", &net, "--json"]);
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    let layer = |name: &str| {
        let layers = all["layers"].as_array().unwrap();
        layers.iter().find(|l| l["name"] == name).unwrap().clone()
    };
    let conv = layer("conv");
    assert_eq!(conv["parameters"], 4 * 2 * 9 + 4);
    // 2 × 4 × 3 × 3 values, each of 18 products and sums and a bias.
    assert_eq!(conv["flops"], 72 * (2 * 18 + 1));
    assert_eq!(conv["tops"][0], serde_json::json!([2, 4, 3, 3]));
    assert_eq!(conv["bytes"], 72 * 4);
    assert_eq!(layer("ip")["flops"], 2 * 2 * 36 * 10 + 20);
    // In place: no memory of its own.
    assert_eq!((&layer("relu")["bytes"], &layer("relu")["flops"]), (&0.into(), &72.into()));
    assert_eq!(all["parameters"], 76 + 370);
    assert_eq!(all["layers"].as_array().unwrap().len(), 4);

    let (table, _) = succeeds(&["net", "summary", &net, "-phase", "TEST"]);
    assert!(table.contains("2x4x3x3") && table.contains("prob"), "{table}");
    assert!(table.contains("5 layers, 446 parameters"), "{table}");
}

#[test]
fn check_tells_the_faults_of_both_phases() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", NET);
    let (_, log) = succeeds(&["net", "check", &net]);
    assert!(log.contains("TRAIN: 4 layers, 446 parameters; good"), "{log}");
    assert!(log.contains("TEST: 5 layers"), "{log}");

    let wrong = NET.replace("bottom: 'ip' top: 'prob'", "bottom: 'pi' top: 'prob'");
    let net = folder.write("test.prototxt", &wrong);
    let message = fails(&["net", "check", &net]);
    assert!(
        message.contains("layer `prob`") && message.contains("did you mean `ip`?"),
        "{message}"
    );
    let both = format!(
        "{wrong} layer {{ name: 'x' type: 'ReLU' bottom: 'q' top: 'x' include {{ phase: TRAIN }} }}"
    );
    let net = folder.write("both.prototxt", both);
    assert!(fails(&["net", "check", &net]).contains("2 faults"));
    // Three faults of one phase; `after` only follows from one of them and is no fault of its own.
    let three = format!(
        "{NET} layer {{ name: 'one' type: 'ReLU' bottom: 'q' top: 'one' }}
         layer {{ name: 'after' type: 'ReLU' bottom: 'one' top: 'after' }}
         layer {{ name: 'two' type: 'Convolution' bottom: 'ip' top: 'two' }}
         layer {{ name: 'three' type: 'Sofmax' bottom: 'two' top: 'three' }}"
    );
    let net = folder.write("three.prototxt", three);
    let output = caffe().args(["net", "check", &net]).output().unwrap();
    let log = text(&output.stderr);
    for name in ["one", "two", "three"] {
        assert_eq!(log.matches(&format!("layer `{name}` ")).count(), 1, "{name}: {log}");
    }
    assert!(log.contains("3 faults") && !log.contains("layer `after`"), "{log}");
    let types = NET.replace("'ReLU'", "'RelU'").replace("'Softmax'", "'Sofmax'");
    let net = folder.write("types.prototxt", types);
    let output = caffe().args(["net", "check", &net]).output().unwrap();
    let log = text(&output.stderr);
    assert!(log.contains("layer `relu` at ") && log.contains("did you mean `ReLU`?"), "{log}");
    assert!(log.contains("layer `prob` at ") && log.contains("types.prototxt:8"), "{log}");
    assert!(log.contains("2 faults"), "{log}");
    assert!(fails(&["net", "check", "no-such"]).contains("no-such"));
    assert!(fails(&["net", "check", &net, "-json"]).contains("belongs to summary"));
}

#[test]
fn draw_writes_dot_and_says_what_pictures_need() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", NET);
    let (dot, _) = succeeds(&["net", "draw", &net, "-rankdir=TB", "-phase", "TRAIN"]);
    assert!(dot.starts_with("digraph \"small\" {\n  rankdir=TB;\n"), "{dot}");
    assert!(dot.contains("\"blob data\" -> layer1;\n  layer1 -> \"blob conv\";"), "{dot}");
    assert!(!dot.contains("prob"), "{dot}");
    let file = folder.name("net.dot");
    succeeds(&["net", "draw", &net, &file]);
    assert!(fs::read_to_string(&file).unwrap().contains("prob\\nSoftmax"));
    assert!(fails(&["net", "draw", &net, &folder.name("net.bmp")]).contains(".svg, .png"));

    let svg = folder.name("net.svg");
    let output =
        caffe().args(["net", "draw", &net, &svg]).env("PATH", folder.0.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("install the package graphviz"));
    if std::process::Command::new("dot").arg("-V").output().is_err() {
        println!("skipped: Graphviz's dot is not installed");
        return;
    }
    succeeds(&["net", "draw", &net, &svg]);
    assert!(fs::read_to_string(&svg).unwrap().contains("</svg>"));
}

#[test]
fn diff_names_what_changed() {
    let folder = Folder::new();
    let old = folder.write("old.prototxt", NET);
    let new = NET
        .replace("num_output: 10", "num_output: 12")
        .replace("'relu' type: 'ReLU'", "'r' type: 'ELU'");
    let new = folder.write("new.prototxt", new);
    let (out, _) = succeeds(&["net", "diff", &old, &new]);
    let want = "- layer relu (ReLU)\n~ layer ip (InnerProduct)\n    \
                inner_product_param.num_output: 10 -> 12\n+ layer r (ELU)\n";
    assert_eq!(out, want);
    assert_eq!(succeeds(&["net", "diff", &old, &old]).0, "the nets say the same\n");
    assert!(fails(&["net", "diff", &old]).contains("two nets"));
}

#[test]
fn time_tells_rates_besides_caffes_lines() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", NET);
    let (_, log) = succeeds(&["time", "-model", &net, "-iterations", "2"]);
    let rate = |layer: &str| {
        let line = log
            .lines()
            .find(|l| l.contains(&format!("{layer}\tforward: ")) && l.contains("GFLOP/s"));
        let line = line.unwrap_or_else(|| panic!("no rate of {layer} in\n{log}"));
        line.split("forward: ").nth(1).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(rate("conv") > 0.0 && rate("ip") > 0.0);
    assert!(log.contains("conv\tforward: ") && log.contains(" ms."), "{log}");
}

#[test]
fn parse_log_and_plot_read_what_train_writes() {
    let folder = Folder::new();
    let lines = "\
I1122 23:11:18.000000     1 solver.cpp:289] Solving net
I1122 23:11:18.500000     1 solver.cpp:347] Iteration 0, Testing net (#0)
I1122 23:11:19.000000     1 solver.cpp:414]     Test net output #0: accuracy = 0.1
I1122 23:11:20.000000     1 solver.cpp:239] Iteration 0 (0 iter/s, 1s/1 iters), loss = 2.5
I1122 23:11:20.000000     1 solver.cpp:258]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I1122 23:11:20.000000     1 sgd_solver.cpp:112] Iteration 0, lr = 0.01
";
    let log = folder.write("run.log", lines);
    let out = folder.name("");
    succeeds(&["parse_log", &log, &out]);
    let train = fs::read_to_string(folder.path("run.log.train")).unwrap();
    assert_eq!(train, "NumIters,Seconds,LearningRate,loss\r\n0.0,2.0,nan,2.5\r\n");
    let test = fs::read_to_string(folder.path("run.log.test")).unwrap();
    assert_eq!(test, "NumIters,Seconds,LearningRate,accuracy\r\n0.0,1.0,nan,0.1\r\n");
    let picture = folder.name("run.png");
    succeeds(&["plot", &log, &log, &picture, "--outputs=loss,accuracy"]);
    assert!(fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    let picture = folder.name("run.svg");
    succeeds(&["plot", "-log", "--over=seconds", &log, &picture]);
    assert!(fs::read_to_string(&picture).unwrap().contains(">accuracy</text>"));
    assert!(fails(&["plot", &log, "run.jpg"]).contains("`run.jpg`: pictures are .svg or .png"));
    assert!(fails(&["plot", &log, &picture, "-outputs=top"]).contains("loss, accuracy"));
    assert!(fails(&["plot", "no-such.log", &picture]).contains("no-such.log"));
    let empty = folder.write("empty.log", "nothing\n");
    assert!(fails(&["plot", &log, &empty, &picture]).contains("empty.log"));
    assert!(fails(&["parse_log", &empty, &out]).contains("is it the log of a training run?"));
    assert!(fails(&["parse_log", "no-such.log"]).contains("no-such.log"));
}
