//! A short run of chaos: what `make chaos` does for long.
#![allow(clippy::unwrap_used, reason = "a test")]

use load_tests::chaos::schedule::Amounts;
use load_tests::chaos::{self, Options};

#[test]
fn what_clients_saw_is_what_is_stored_whatever_is_killed() {
    let seed = std::env::var("LIUTONG_CHAOS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let amounts = Amounts { kills: [4, 4, 1], others: 10, has_disk: true };
    let options = Options { seed, amounts, rate: 600.0, clients: 24, is_loud: false };
    let outcome = chaos::run(&options).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("{outcome}");
    chaos::check(&options, &outcome).unwrap();
}
