//! `liutong-dataplane`: see `dataplane::program`.

fn main() -> std::process::ExitCode {
    dataplane::program::run()
}
