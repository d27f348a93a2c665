//! `caffe plan`: its inputs given, measured here, and measured between ranks.

use std::fs;

use serde_json::Value;

use crate::emulated::job;
use crate::support::{Folder, line, mpirun, succeeds, text};

#[test]
fn times_become_a_profile_and_a_profile_a_plan() {
    let folder = Folder::new();
    let (net, _) = job(&folder, 1);
    let profile = folder.name("layers.json");
    succeeds(&line(&format!("time -model {net} -iterations 2 --profile={profile}")));
    let text = fs::read_to_string(&profile).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["layers"][1]["name"], "a");
    assert_eq!(written["layers"][1]["parameters"], 501_000);

    let flags = "--workers=2 --link=bandwidth=1GB/s --memory=1000GB/s --nodes=1,2 --json";
    let device = format!("--device=emulated:{profile},total=100ms");
    let (out, _) = succeeds(&line(&format!("plan -model {net} {device} {flags}")));
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(plan["modes"].as_array().unwrap().len(), 4);
    let sync = &plan["modes"][0]["predictions"];
    assert_eq!(sync[1]["replicas"], 4);
    assert!((plan["compute_ms"].as_f64().unwrap() - 100.0).abs() < 1e-6, "{plan}");
    let iteration = sync[1]["iteration"].as_f64().unwrap();
    assert!((0.1..0.11).contains(&iteration), "{plan}");

    // Compute, memory and link measured.
    let (out, _) = succeeds(&line(&format!("plan -model {net} -iterations 2 --nodes=2")));
    assert!(out.contains("measured here by copying") && out.contains("ssp (staleness 3)"), "{out}");
}

/// A number of a plan.
#[track_caller]
fn number(plan: &Value, name: &str) -> f64 {
    let number = plan[name].as_f64();
    number.unwrap_or_else(|| panic!("no number {name} in {plan}"))
}

#[test]
fn the_link_between_ranks_is_measured_and_used() {
    let folder = Folder::new();
    let (net, _) = job(&folder, 1);
    let Some(mut command) = mpirun(2) else { return };
    let flags = format!(
        "plan -model {net} --device=emulated:total=2ms --memory=1000GB/s --nodes=1,2,16 --json"
    );
    let output = command.args(line(&flags)).output().unwrap();
    let (out, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{log}");
    // One rank prints.
    let plan: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    assert!(plan["link"].as_str().unwrap().ends_with("measured between 2 ranks"), "{plan}");
    let (latency, bandwidth) = (number(&plan, "latency_us"), number(&plan, "bandwidth_gb_s"));
    // Two ranks of one host: far within a second, and no faster than any memory.
    assert!(latency > 0.0 && latency < 1e6, "{plan}");
    assert!(bandwidth > 1e-4 && bandwidth < 1e4, "{plan}");

    // The same link given makes the same predictions, another one does not.
    let given = |latency: f64, bandwidth: f64| -> Value {
        let link = format!("--link=latency={latency}us,bandwidth={bandwidth}GB/s");
        let (out, _) = succeeds(&line(&format!("{flags} {link}")));
        serde_json::from_str(&out).unwrap()
    };
    let same = given(latency, bandwidth);
    let slower = given(2.0 * latency, 0.5 * bandwidth);
    let modes = |plan: &Value| plan["modes"].as_array().unwrap().clone();
    for ((measured, same), slower) in modes(&plan).iter().zip(modes(&same)).zip(modes(&slower)) {
        let of = |mode: &Value, nodes: usize, what: &str| {
            let value = number(&mode["predictions"][nodes], what);
            assert!(value.is_finite() && value >= 0.0, "{mode}");
            value
        };
        for nodes in 0..3 {
            for what in ["iteration", "exposed", "speedup", "round"] {
                let (a, b) = (of(measured, nodes, what), of(&same, nodes, what));
                assert!((a - b).abs() <= 1e-3 * a.abs() + 1e-9, "{what}: {measured} {same}");
            }
            assert!(of(measured, nodes, "iteration") >= 2e-3 * (1.0 - 1e-9), "{measured}");
        }
        // Hogwild hides the link from its iterations; it shows in the length of its rounds.
        let what = if measured["mode"] == "hogwild" { "round" } else { "exposed" };
        for nodes in [1, 2] {
            let (a, b) = (of(measured, nodes, what), of(&slower, nodes, what));
            assert!(b >= a && (b > a || measured["mode"] != "sync"), "{what}: {measured} {slower}");
        }
    }
}

#[test]
fn under_mpirun_one_rank_prints_whatever_is_given() {
    let folder = Folder::new();
    let (net, _) = job(&folder, 1);
    for link in ["", "--link=bandwidth=1GB/s"] {
        let Some(mut command) = mpirun(2) else { return };
        let flags = format!("plan -model {net} -iterations 1 --nodes=2 {link}");
        let output = command.args(line(&flags)).output().unwrap();
        let (out, log) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{log}");
        assert_eq!(out.matches("link: ").count(), 1, "{out}");
        let from = if link.is_empty() { "measured between 2 ranks" } else { "as given" };
        assert!(out.contains(from) && out.contains("measured here by copying"), "{out}");
    }
}
