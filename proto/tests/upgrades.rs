//! Old forms and what becomes of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;

use caffe_proto::{
    BlobProto, NetParameter, SolverParameter, model_from_file, net_from_file, param_spec,
    solver_from_file, text, upgrade::*, write_binary_file_atomic,
};

fn net(text: &str) -> NetParameter {
    text::parse("old", text).unwrap_or_else(|error| panic!("{error}"))
}

/// The net after the upgrade, as text, and what was reported.
fn upgraded(old: &str) -> (String, Vec<String>) {
    let mut net = net(old);
    let changes = upgrade_net(&mut net).unwrap();
    (text::print(&net), changes.iter().map(ToString::to_string).collect())
}

/// Checks that `old` becomes `new`, the layout of both aside.
fn becomes(old: &str, new: &str) {
    assert_eq!(upgraded(old).0, text::print(&net(new)));
}

#[test]
fn a_v1_layer_becomes_a_layer() {
    becomes(
        "name: 'n'
         layers { name: 'conv1' type: CONVOLUTION bottom: 'data' top: 'conv1' blobs_lr: 1 blobs_lr: 2
                  weight_decay: 1 weight_decay: 0 include { phase: TEST } exclude { stage: 's' }
                  loss_weight: 0.5 convolution_param { num_output: 96 kernel_size: 11 } }
         layers { name: 'loss' type: SOFTMAX_LOSS bottom: 'a' bottom: 'b'
                  loss_param { ignore_label: 3 } }",
        "name: 'n'
         layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1'
                 param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
                 include { phase: TEST } exclude { stage: 's' } loss_weight: 0.5
                 convolution_param { num_output: 96 kernel_size: 11 } }
         layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'a' bottom: 'b'
                 loss_param { ignore_label: 3 } }",
    );
}

#[test]
fn parallel_lists_of_different_length_become_specs() {
    let mut net = net("layers { type: INNER_PRODUCT param: 'w' blob_share_mode: PERMISSIVE
                       blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 weight_decay: 3 }");
    upgrade_net(&mut net).unwrap();
    let specs = &net.layer[0].param;
    assert_eq!(specs.len(), 3);
    assert_eq!((specs[0].name(), specs[0].lr_mult(), specs[0].decay_mult()), ("w", 1.0, 1.0));
    assert_eq!(specs[0].share_mode(), param_spec::DimCheckMode::Permissive);
    assert_eq!(
        (specs[1].name.as_ref(), specs[1].lr_mult(), specs[1].decay_mult()),
        (None, 2.0, 0.0)
    );
    assert_eq!((specs[2].lr_mult, specs[2].decay_mult()), (None, 3.0));
    assert_eq!(specs[2].share_mode, None);
}

#[test]
fn every_v1_setting_survives() {
    // Each message field that both forms have, by reflection over the V1 form.
    let pool = caffe_proto::descriptors();
    let v1 = pool.get_message_by_name("caffe.V1LayerParameter").unwrap();
    let today = pool.get_message_by_name("caffe.LayerParameter").unwrap();
    let mut checked = 0;
    for field in v1.fields().filter(|field| field.name().ends_with("_param")) {
        assert!(today.get_field_by_name(field.name()).is_some(), "{}", field.name());
        let old = format!("layers {{ {} {{ }} }}", field.name());
        let new = format!("layer {{ type: '' {} {{ }} }}", field.name());
        becomes(&old, &new);
        checked += 1;
    }
    assert_eq!(checked, 30);
}

#[test]
fn every_v1_type_has_its_name() {
    let types =
        caffe_proto::descriptors().get_enum_by_name("caffe.V1LayerParameter.LayerType").unwrap();
    for value in types.values() {
        let mut net = net(&format!("layers {{ type: {} }}", value.name()));
        upgrade_net(&mut net).unwrap();
        // But for the softmax loss, the new name is the old one without underscores.
        let plain = value.name().replace('_', "").to_ascii_lowercase();
        let expected = match plain.as_str() {
            "none" => "",
            "softmaxloss" => "softmaxwithloss",
            other => other,
        };
        assert_eq!(net.layer[0].r#type().to_ascii_lowercase(), expected);
    }
}

#[test]
fn transform_settings_of_v1_data_layers_move() {
    let (new, changes) = upgraded(
        "layers { name: 'data' type: DATA data_param { source: 'db' scale: 0.5 mean_file: 'm'
                  crop_size: 227 mirror: true batch_size: 4 } }
         layers { type: IMAGE_DATA image_data_param { mirror: false } transform_param { scale: 2 } }
         layers { type: WINDOW_DATA window_data_param { crop_size: 3 } transform_param { crop_size: 4 } }",
    );
    let expected =
        net("layer { name: 'data' type: 'Data' data_param { source: 'db' batch_size: 4 }
                  transform_param { scale: 0.5 mean_file: 'm' crop_size: 227 mirror: true } }
         layer { type: 'ImageData' image_data_param { } transform_param { scale: 2 mirror: false } }
         layer { type: 'WindowData' window_data_param { } transform_param { crop_size: 3 } }");
    assert_eq!(new, text::print(&expected));
    assert_eq!(changes.len(), 4);
    assert_eq!(
        changes[0],
        "layer `data`: data_param.scale, data_param.mean_file, data_param.crop_size, \
         data_param.mirror moved to transform_param"
    );
}

#[test]
fn transform_settings_of_todays_data_layers_stay_without_effect() {
    let old = "layer { name: 'data' type: 'Data' data_param { source: 'db' scale: 0.5 } }";
    let (new, changes) = upgraded(old);
    assert_eq!(new, text::print(&net(old)));
    assert!(changes[0].contains("data_param.scale ignored, as by Caffe"), "{changes:?}");
}

#[test]
fn inputs_become_a_layer_before_all_others() {
    let expected = "layer { name: 'input' type: 'Input' top: 'data' top: 'label'
                    input_param { shape { dim: 10 dim: 3 dim: 227 dim: 227 }
                                  shape { dim: 10 dim: 1 dim: 1 dim: 1 } } }
                    layer { name: 'relu' type: 'ReLU' }";
    becomes(
        "input: 'data' input: 'label' input_dim: [10, 3, 227, 227, 10, 1, 1, 1]
         layer { name: 'relu' type: 'ReLU' }",
        expected,
    );
    becomes(
        "input: 'data' input: 'label' input_shape { dim: 10 dim: 3 dim: 227 dim: 227 }
         input_shape { dim: 10 dim: 1 dim: 1 dim: 1 } layers { name: 'relu' type: RELU }",
        expected,
    );
    let (new, changes) = upgraded("input: 'data' layer { name: 'relu' }");
    assert_eq!(new, text::print(&net("layer { name: 'relu' }")));
    assert_eq!(changes, ["net input data has no shape and was dropped"]);
}

#[test]
fn three_specs_of_a_batch_norm_become_zero() {
    becomes(
        "layer { type: 'BatchNorm' param { lr_mult: 1 } param { lr_mult: 0 name: 'x' } param { } }
         layer { type: 'BatchNorm' param { lr_mult: 1 } }
         layer { type: 'Scale' param { } param { } param { } }",
        "layer { type: 'BatchNorm' param { lr_mult: 0 decay_mult: 0 }
                 param { lr_mult: 0 decay_mult: 0 name: 'x' } param { lr_mult: 0 decay_mult: 0 } }
         layer { type: 'BatchNorm' param { lr_mult: 1 } }
         layer { type: 'Scale' param { } param { } param { } }",
    );
}

#[test]
fn a_v0_net_becomes_a_net_of_today() {
    becomes(
        "name: 'n'
         layers { layer { name: 'data' type: 'data' source: 'db' meanfile: 'm' batchsize: 256
                          cropsize: 227 mirror: true scale: 0.5 rand_skip: 3 } top: 'data' top: 'label' }
         layers { layer { name: 'pad1' type: 'padding' pad: 2 } bottom: 'data' top: 'pad1' }
         layers { layer { name: 'conv1' type: 'conv' num_output: 96 group: 2 kernelsize: 5 stride: 4
                          biasterm: false weight_filler { type: 'gaussian' std: 0.01 }
                          bias_filler { value: 1 } blobs_lr: 1 blobs_lr: 2
                          weight_decay: 1 weight_decay: 0 } bottom: 'pad1' top: 'conv1' }
         layers { layer { name: 'pool1' type: 'pool' pool: AVE kernelsize: 3 stride: 2 pad: 1 }
                  bottom: 'conv1' top: 'pool1' }
         layers { layer { name: 'norm1' type: 'lrn' local_size: 3 alpha: 0.1 beta: 0.5 k: 2 }
                  bottom: 'pool1' top: 'norm1' }
         layers { layer { name: 'drop' type: 'dropout' dropout_ratio: 0.25 } bottom: 'norm1' top: 'norm1' }
         layers { layer { name: 'ip' type: 'innerproduct' num_output: 10 } bottom: 'norm1' top: 'ip' }
         layers { layer { name: 'cat' type: 'concat' concat_dim: 0 } bottom: 'ip' bottom: 'ip' top: 'cat' }
         layers { layer { name: 'loss' type: 'softmax_loss' } bottom: 'cat' bottom: 'label' }",
        "name: 'n'
         layer { name: 'data' type: 'Data' top: 'data' top: 'label'
                 data_param { source: 'db' batch_size: 256 rand_skip: 3 }
                 transform_param { mean_file: 'm' crop_size: 227 mirror: true scale: 0.5 } }
         layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1'
                 param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
                 convolution_param { num_output: 96 group: 2 kernel_size: 5 stride: 4 pad: 2
                   bias_term: false weight_filler { type: 'gaussian' std: 0.01 } bias_filler { value: 1 } } }
         layer { name: 'pool1' type: 'Pooling' bottom: 'conv1' top: 'pool1'
                 pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
         layer { name: 'norm1' type: 'LRN' bottom: 'pool1' top: 'norm1'
                 lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } }
         layer { name: 'drop' type: 'Dropout' bottom: 'norm1' top: 'norm1'
                 dropout_param { dropout_ratio: 0.25 } }
         layer { name: 'ip' type: 'InnerProduct' bottom: 'norm1' top: 'ip'
                 inner_product_param { num_output: 10 } }
         layer { name: 'cat' type: 'Concat' bottom: 'ip' bottom: 'ip' top: 'cat'
                 concat_param { concat_dim: 0 } }
         layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'cat' bottom: 'label' }",
    );
}

#[test]
fn other_records_of_v0_nets_keep_their_settings() {
    becomes(
        "layers { layer { name: 'i' type: 'images' source: 'l' batchsize: 2 shuffle_images: true
                          new_height: 4 new_width: 5 rand_skip: 6 } top: 'a' }
         layers { layer { name: 'w' type: 'window_data' source: 'w' batchsize: 3 det_fg_threshold: 0.1
                          det_bg_threshold: 0.2 det_fg_fraction: 0.3 det_context_pad: 4
                          det_crop_mode: 'square' } top: 'b' }
         layers { layer { name: 'h' type: 'hdf5_data' source: 'h' batchsize: 7 } top: 'c' }
         layers { layer { name: 'o' type: 'hdf5_output' hdf5_output_param { file_name: 'f' } }
                  bottom: 'a' bottom: 'b' }
         layers { layer { name: 'g' type: 'infogain_loss' source: 's' } bottom: 'a' bottom: 'b' }",
        "layer { name: 'i' type: 'ImageData' top: 'a' image_data_param { source: 'l' batch_size: 2
                 shuffle: true new_height: 4 new_width: 5 rand_skip: 6 } }
         layer { name: 'w' type: 'WindowData' top: 'b' window_data_param { source: 'w' batch_size: 3
                 fg_threshold: 0.1 bg_threshold: 0.2 fg_fraction: 0.3 context_pad: 4 crop_mode: 'square' } }
         layer { name: 'h' type: 'HDF5Data' top: 'c' hdf5_data_param { source: 'h' batch_size: 7 } }
         layer { name: 'o' type: 'HDF5Output' bottom: 'a' bottom: 'b' hdf5_output_param { file_name: 'f' } }
         layer { name: 'g' type: 'InfogainLoss' bottom: 'a' bottom: 'b' infogain_loss_param { source: 's' } }",
    );
}

#[test]
fn settings_that_a_v0_type_never_had_are_dropped_and_named() {
    let (new, changes) = upgraded(
        "layers { layer { name: 'r' type: 'relu' num_output: 3 new_num: 1 } bottom: 'a' top: 'b' }
         layers { layer { name: 'p' type: 'padding' pad: 1 } bottom: 'b' top: 'p' }
         layers { layer { name: 'c' type: 'pool' } bottom: 'p' top: 'c' }",
    );
    let expected = "layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'b' }
                    layer { name: 'c' type: 'Pooling' bottom: 'b' top: 'c' pooling_param { pad: 1 } }";
    assert_eq!(new, text::print(&net(expected)));
    assert_eq!(
        changes[..2],
        [
            "2 layers of the oldest form `layers { layer { … } }` read, 1 padding layer merged",
            "layer `r`: num_output, new_num dropped, since layers of its type have no such setting",
        ]
    );
}

#[test]
fn v0_nets_that_make_no_sense_are_refused() {
    let refused = |old: &str| upgrade_net(&mut net(old)).unwrap_err();
    let padding = "layers { layer { name: 'p' type: 'padding' pad: 1 } bottom: 'a' top: 'p' }";
    let relu = "layers { layer { name: 'r' type: 'relu' } bottom: 'p' top: 'r' }";
    let error = refused(&format!("{padding} {relu}"));
    assert_eq!(error, UpgradeError::V0Padding { layer: "r".into(), index: 1 });
    let error = refused(&format!("{padding} layers {{ name: 'v1' type: RELU }}"));
    assert_eq!(error, UpgradeError::MixedV0Layers { layer: "v1".into(), index: 1 });
    assert_eq!(refused(&format!("layer {{ }} {relu}")), UpgradeError::MixedLayers);
}

#[test]
fn a_net_of_today_stays_as_it_is() {
    let today = "name: 'n' layer { name: 'a' type: 'Data' data_param { source: 'x' } }
                 layer { type: 'BatchNorm' param { lr_mult: 0 decay_mult: 0 }
                 param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } }";
    let (new, changes) = upgraded(today);
    assert_eq!(new, text::print(&net(today)));
    assert_eq!(changes, Vec::<String>::new());
    assert_eq!(upgraded(&new), (new, changes));
}

#[test]
fn what_cannot_be_upgraded_is_refused() {
    let refused = |old: &str| upgrade_net(&mut net(old)).unwrap_err();
    assert_eq!(refused("layer { } layers { }"), UpgradeError::MixedLayers);
    let error = refused("input: 'a' input: 'b' input_dim: 1 input_dim: 2");
    assert!(error.to_string().contains("2 `input`s but 2 `input_dim`s; needed are 4"), "{error}");
    let error = refused("input: 'a' input: 'b' input_shape { }");
    assert!(error.to_string().contains("needed are 1 for each"), "{error}");
}

#[test]
fn solver_types_get_their_names() {
    let cases = [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("3", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ];
    for (number, name) in cases {
        let text = format!("solver_type: {number} net_param {{ layers {{ type: RELU }} }}");
        let mut solver: SolverParameter = text::parse("solver", &text).unwrap();
        let changes = upgrade_solver(&mut solver).unwrap();
        assert_eq!((solver.r#type(), solver.solver_type), (name, None));
        assert_eq!(solver.net_param.unwrap().layer[0].r#type(), "ReLU");
        assert_eq!(changes.len(), 2);
    }
    let mut solver: SolverParameter =
        text::parse("solver", "type: 'SGD' solver_type: ADAM").unwrap();
    let error = upgrade_solver(&mut solver).unwrap_err();
    assert_eq!(error, UpgradeError::TwoSolverTypes { name: "SGD".into() });
}

#[test]
fn a_solver_file_gives_its_snapshots_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lenet_solver.prototxt");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        solver_from_file(&path).unwrap()
    };
    let solver = read("net: 'n'");
    assert_eq!(
        solver.solver.snapshot_prefix(),
        folder.path().join("lenet_solver").to_str().unwrap()
    );
    assert_eq!(solver.changes.len(), 1);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let solver = read(&format!("snapshot_prefix: '{}'", out.display()));
    assert_eq!(solver.solver.snapshot_prefix(), out.join("lenet_solver").to_str().unwrap());
    let solver = read("snapshot_prefix: 'snap/lenet'");
    assert_eq!((solver.solver.snapshot_prefix(), solver.changes.len()), ("snap/lenet", 0));
}

#[test]
fn a_net_file_knows_where_its_layers_stand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.prototxt");
    fs::write(
        &path,
        "name: 'n'\ninput: 'x'\ninput_dim: [1, 1, 1, 1]\n\nlayers {\n type: RELU\n}\n",
    )
    .unwrap();
    let file = net_from_file(&path).unwrap();
    assert_eq!(file.net.layer.len(), 2);
    assert_eq!((file.line(0), file.line(1), file.line(2)), (Some(2), Some(5), None));
    assert_eq!(file.place(1), format!("{}:5", path.display()));
    assert_eq!(file.place(9), path.display().to_string());
    assert_eq!(file.changes.len(), 2);

    fs::write(
        &path,
        "layers { layer { name: 'p' type: 'padding' } bottom: 'a' top: 'p' }\n\
         layers { layer { name: 'c' type: 'conv' } bottom: 'p' top: 'c' }\n\
         layers {\n layer { name: 'x' type: 'relu' } }\n",
    )
    .unwrap();
    let file = net_from_file(&path).unwrap();
    assert_eq!((file.line(0), file.line(1), file.line(2)), (Some(2), Some(3), None));

    fs::write(&path, "# V0\nlayers {\n layer { name: 'x' type: 'warp' } }\n").unwrap();
    let error = net_from_file(&path).unwrap_err().to_string();
    let expected = format!("{}:2: layer `x` has type \"warp\", which the form", path.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn an_old_model_keeps_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.caffemodel");
    let mut old = net("name: 'm' layers { name: 'ip' type: INNER_PRODUCT blobs { num: 1 } }");
    let weights: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    old.layers[0].blobs[0] = BlobProto { data: weights.clone(), ..Default::default() };
    write_binary_file_atomic(&path, &old).unwrap();
    let (model, changes) = model_from_file(&path).unwrap();
    assert_eq!(model.layer[0].blobs[0].data, weights);
    assert_eq!(changes, [Change::V1Layers { layers: 1 }]);
}
