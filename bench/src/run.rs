//! The main run: every work by every subject, round after round.
//!
//! All subjects run at once before the same upstream and take turns, so that whatever the machine goes
//! through meets them all; every second round goes the other way round, so that a steady drift meets the
//! first as much as the last.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use load_tests::harness::{Setup, System};
use load_tests::tls::Certified;
use load_tests::upstream::Upstream;

use crate::Arguments;
use crate::keys::{self, Keys};
use crate::machine::Machine;
use crate::measure::{Meanwhile, Sample, Stand, Window};
use crate::report::{Results, Row};
use crate::subject::{Name, Setting, Subject};
use crate::work::{ALIAS, WORKS, Work};

/// How long half load is calibrated.
const CALIBRATION: Duration = Duration::from_millis(1500);

/// A subject at a work, and what came of it.
struct Cell<'a> {
    work: &'a Work,
    name: Name,
    subject: &'a Subject,
    samples: Vec<Sample>,
}

/// Measures what the arguments choose.
pub(crate) fn measure(arguments: &Arguments) -> anyhow::Result<Results> {
    let works = chosen_works(&arguments.works)?;
    let machine = Machine::this();
    let upstream = Stand::upstream()?;
    let (subjects, keys) = start_subjects(arguments, &works, &upstream)?;
    let stand = Stand::new(upstream, &keys.sent)?.with_system_of(&subjects);
    let half = calibrated(&stand, &works, &subjects)?;
    let window = Window { time: Duration::from_secs_f64(arguments.seconds()), half };

    let mut cells = cells(&works, &subjects);
    for round in 1..=arguments.rounds() {
        eprintln!("round {round} of {}", arguments.rounds());
        let in_order: Box<dyn Iterator<Item = &mut Cell<'_>>> =
            if round % 2 == 1 { Box::new(cells.iter_mut()) } else { Box::new(cells.iter_mut().rev()) };
        for cell in in_order {
            cell.measure(&stand, window)?;
        }
    }
    Ok(Results {
        rows: cells.into_iter().map(|cell| Row::new(cell.work, cell.name, cell.samples)).collect(),
        works,
        machine,
        subjects: subjects.iter().map(|subject| (subject.name.text(), subject.about.clone())).collect(),
        seconds: arguments.seconds(),
        rounds: arguments.rounds().into(),
        half_load: half,
    })
}

impl Cell<'_> {
    fn measure(&mut self, stand: &Stand<'_>, window: Window) -> anyhow::Result<()> {
        let meanwhile = if self.name == Name::Shipping { Meanwhile::Shipping } else { Meanwhile::Paused };
        let (work, name) = (self.work, self.name.text());
        let sample = stand
            .measure(self.subject, work, window, meanwhile)
            .with_context(|| format!("{name} at {}", work.name))?;
        let (cpu, rate) = (sample.cpu_us, sample.rate);
        eprintln!("  {:<18} {name:<26} {cpu:7.2} µs of CPU, {rate:8.0} {}s/s", work.name, work.unit());
        self.samples.push(sample);
        Ok(())
    }
}

fn cells<'a>(works: &'a [Work], subjects: &'a [Subject]) -> Vec<Cell<'a>> {
    let mut cells = Vec::new();
    for work in works {
        let mut add = |name, subject| cells.push(Cell { work, name, subject, samples: Vec::new() });
        for subject in subjects.iter().filter(|subject| subject.has_tls() == work.tls.is_on()) {
            add(subject.name, subject);
            if work.shipping && subject.system().is_some() {
                add(Name::Shipping, subject);
            }
        }
    }
    cells
}

fn chosen_works(names: &[String]) -> anyhow::Result<Vec<Work>> {
    let known: Vec<&str> = WORKS.iter().map(|work| work.name).collect();
    for name in names {
        ensure!(known.contains(&name.as_str()), "--work {name} is none of {}", known.join(", "));
    }
    Ok(WORKS
        .into_iter()
        .filter(|work| names.is_empty() || names.iter().any(|name| name == work.name))
        .collect())
}

/// Half of the rate that nginx, or else the last proxy there is, reaches when its core is saturated; without
/// a work that needs it, nothing.
fn calibrated(stand: &Stand<'_>, works: &[Work], subjects: &[Subject]) -> anyhow::Result<f64> {
    if !works.iter().any(|work| work.half_load) {
        return Ok(0.0);
    }
    let plain = || subjects.iter().filter(|subject| !subject.has_tls());
    let nginx = plain().find(|subject| subject.name == Name::Nginx);
    let subject = nginx.or(plain().next_back()).context("there is no subject")?;
    let window = Window { time: CALIBRATION, half: 0.0 };
    let sample = stand.measure(subject, &Work::chat(), window, Meanwhile::Paused)?;
    let half = (sample.rate / 200.0).round() * 100.0;
    eprintln!("half load is {half} exchanges/s: {} reaches {:.0}", subject.name.text(), sample.rate);
    Ok(half)
}

/// Starts those that the works need: ones that clients speak plain HTTP to, and ones for https.
fn start_subjects(
    arguments: &Arguments,
    works: &[Work],
    upstream: &Upstream,
) -> anyhow::Result<(Vec<Subject>, Keys)> {
    let wanted = |name: &Name| arguments.subjects.is_empty() || arguments.subjects.contains(name);
    let is_plain = works.iter().any(|work| !work.tls.is_on());
    let whole =
        is_plain && wanted(&Name::Liutong) && !arguments.dataplane_only && keys::whole_system_is_built();
    let mut system = whole.then(|| start_system(upstream)).transpose()?;
    let keys = system.as_ref().map_or_else(|| Ok(Keys::invented()), Keys::of)?;
    let setting = Setting::new(upstream.address(), &keys);
    let mut subjects = Vec::new();
    for name in Name::ALL.into_iter().filter(|name| is_plain && wanted(name)) {
        subjects.push(match system.take_if(|_| name == Name::Liutong) {
            Some(system) => Subject::whole_system(system, &keys)?,
            None => Subject::start(name, &setting)?,
        });
    }
    if works.iter().any(|work| work.tls.is_on()) {
        let certified = Arc::new(Certified::new()?);
        let setting = Setting { tls: Some(&certified), ..setting };
        for name in Name::ALL.into_iter().filter(|name| name.speaks_tls() && wanted(name)) {
            subjects.push(Subject::start(name, &setting)?);
        }
    }
    Ok((subjects, keys))
}

fn start_system(upstream: &Upstream) -> anyhow::Result<System> {
    eprintln!("starting the whole system (the first time it fetches ClickHouse)");
    let mut setup = Setup::for_upstream(&upstream.base_url());
    (setup.alias, setup.workers) = (ALIAS.to_owned(), 1);
    System::start(&setup)
}
