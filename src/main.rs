//! The `caffe` program: everything is in [`caffe::cmd`].

fn main() -> std::process::ExitCode {
    caffe::cmd::main()
}
