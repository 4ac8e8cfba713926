//! `liutong-dataplane-priced`: the data plane with what `LIUTONG_WITHOUT` names left out, for the bench.

fn main() -> std::process::ExitCode {
    eprintln!("liutong-dataplane-priced: for the bench only; it does not do all that the data plane does");
    dataplane::prices::allow();
    dataplane::program::run()
}
