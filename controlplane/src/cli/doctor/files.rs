//! Certificates, and who may read what is secret.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use toml::Value;
use x509_parser::pem::Pem;

use super::Finding;
use super::installation::{Installation, Plane};

/// Others may do nothing with a secret's file, its group may read it: what the planes insist on.
const FORBIDDEN_MODE: u32 = 0o027;
/// Only its user may enter a plane's data directory.
const FORBIDDEN_DIRECTORY_MODE: u32 = 0o077;
const DAY_S: i64 = 24 * 60 * 60;
const RENEW_DAYS: i64 = 14;
/// A node renews its own certificate when a third of its life is left; with less it has failed to.
const NODE_RENEW_PERCENT: i64 = 25;

/// From when to when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    from: i64,
    to: i64,
}

pub(super) fn examine(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, plane) in installation.planes() {
        if let Some(dir) = plane.data_dir() {
            findings.push(directory(&format!("data directory of the {name}"), dir));
        }
    }
    findings.extend(secret_files(installation).iter().map(|file| secret(file)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let (written, renewed) = certificates(installation);
    for file in written {
        findings.push(match validity(&file) {
            Ok(validity) => certificate(&file, validity, now),
            Err(problem) => unreadable(&file, &problem),
        });
    }
    for file in renewed.into_iter().filter(|file| file.exists()) {
        findings.push(match validity(&file) {
            Ok(validity) => node_certificate(&file, validity, now),
            Err(problem) => unreadable(&file, &problem),
        });
    }
    findings
}

/// The files that the configurations name as secret, and those that the planes make themselves.
fn secret_files(installation: &Installation) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut add = |file: Option<&str>| files.extend(file.map(PathBuf::from));
    if let Some(plane) = &installation.controlplane {
        for keys in ["admin.bootstrap_key_file", "registry.password_file", "clickhouse.password_file"] {
            add(plane.text(keys));
        }
    }
    if let Some(plane) = &installation.dataplane {
        let credentials = plane.config.get("credentials").and_then(Value::as_table);
        for credential in credentials.into_iter().flat_map(toml::Table::values) {
            add(credential.get("file").and_then(Value::as_str));
        }
        for table in tls_tables(plane) {
            add(table.get("key_file").and_then(Value::as_str));
        }
    }
    let mut made = Vec::new();
    if let Some(dir) = installation.controlplane.as_ref().and_then(Plane::data_dir) {
        made.extend([dir.join("authority/ca.key"), dir.join("registry.db")]);
    }
    if let Some(dir) = installation.dataplane.as_ref().and_then(Plane::data_dir) {
        made.push(dir.join("control.pem"));
    }
    made.extend(installation.quickstart.iter().map(|dir| dir.join("admin-key")));
    files.extend(made.into_iter().filter(|file| file.exists()));
    files
}

/// Those that somebody looks after, and those that the planes renew themselves.
fn certificates(installation: &Installation) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut written, mut renewed) = (Vec::new(), Vec::new());
    if let Some(plane) = &installation.dataplane {
        let named = tls_tables(plane).filter_map(|table| table.get("certificate_file")?.as_str());
        written.extend(named.map(PathBuf::from));
        renewed.extend(plane.data_dir().map(|dir| dir.join("control.pem")));
    }
    if let Some(dir) = installation.controlplane.as_ref().and_then(Plane::data_dir) {
        let authority = dir.join("authority/ca.pem");
        written.extend(authority.exists().then_some(authority));
    }
    (written, renewed)
}

/// `[http.tls]`, and the entries of `[[http.tls.certificates]]`.
fn tls_tables(plane: &Plane) -> impl Iterator<Item = &toml::Table> {
    let tls = plane.config.get("http").and_then(|http| http.get("tls")).and_then(Value::as_table);
    let more = tls.and_then(|tls| tls.get("certificates")).and_then(Value::as_array);
    tls.into_iter().chain(more.into_iter().flatten().filter_map(Value::as_table))
}

fn secret(file: &Path) -> Finding {
    match file.metadata() {
        Ok(metadata) => secret_mode(file, metadata.permissions().mode() & 0o777),
        Err(error) => {
            let mend = "put it there, or run this as a user who may look";
            Finding::failed("secret file", format!("{}: {error}", file.display()), mend)
        }
    }
}

fn secret_mode(file: &Path, mode: u32) -> Finding {
    let found = format!("{} has mode {mode:03o}", file.display());
    if mode & FORBIDDEN_MODE == 0 {
        return Finding::ok("secret file", found);
    }
    let mend =
        format!("`chmod 600 {}`, and take what is in it for known to others: make a new one", file.display());
    Finding::failed("secret file", found, mend)
}

fn directory(check: &str, dir: &Path) -> Finding {
    match dir.metadata() {
        Ok(metadata) => directory_mode(check, dir, metadata.permissions().mode() & 0o777),
        Err(error) => Finding::skipped(check, format!("{}: {error}", dir.display())),
    }
}

fn directory_mode(check: &str, dir: &Path, mode: u32) -> Finding {
    let found = format!("{} has mode {mode:03o}", dir.display());
    if mode & FORBIDDEN_DIRECTORY_MODE == 0 {
        return Finding::ok(check, found);
    }
    Finding::warning(check, found, format!("`chmod 700 {}`: usage and names are in it", dir.display()))
}

/// When the first of a file's certificates ends.
fn validity(file: &Path) -> Result<Validity, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let mut first: Option<Validity> = None;
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|_| "is no PEM".to_owned())?;
        // The node's file has its key as well.
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let certificate = pem.parse_x509().map_err(|_| "has a certificate that can't be read".to_owned())?;
        let validity = certificate.validity();
        let this = Validity { from: validity.not_before.timestamp(), to: validity.not_after.timestamp() };
        first = Some(first.filter(|first| first.to <= this.to).unwrap_or(this));
    }
    first.ok_or_else(|| "has no certificate".to_owned())
}

fn unreadable(file: &Path, problem: &str) -> Finding {
    let mend = "put a certificate in PEM there, or run this as a user who may read it";
    Finding::failed("certificate", format!("{}: {problem}", file.display()), mend)
}

fn certificate(file: &Path, validity: Validity, now: i64) -> Finding {
    let days = (validity.to - now).div_euclid(DAY_S);
    let found = format!("{} ends in {days} days", file.display());
    let mend = "put a new one there: it is taken up within 10 s";
    if now < validity.from {
        let found = format!("{} is not good yet", file.display());
        Finding::failed("certificate", found, "set the clock, or get a certificate that is good now")
    } else if now >= validity.to {
        Finding::failed("certificate", format!("{} has ended", file.display()), mend)
    } else if days < RENEW_DAYS {
        Finding::warning("certificate", found, mend)
    } else {
        Finding::ok("certificate", found)
    }
}

fn node_certificate(file: &Path, validity: Validity, now: i64) -> Finding {
    let check = "certificate of this node";
    let (life, left) = ((validity.to - validity.from).max(1), validity.to - now);
    let found = format!("{} has {} hours left of {}", file.display(), left / 3600, life / 3600);
    if left <= 0 {
        let mend = "`liutong node enroll NAME` on the control plane, `liutong-dataplane --config FILE --enroll` here";
        return Finding::failed(check, format!("{} has ended", file.display()), mend);
    }
    if left.saturating_mul(100) / life < NODE_RENEW_PERCENT {
        let mend = "it should have been renewed by now: can this node reach its control plane?";
        return Finding::warning(check, found, mend);
    }
    Finding::ok(check, found)
}

#[cfg(test)]
mod tests {
    use super::super::Places;
    use super::super::Verdict::{Failed, Ok as Fine, Warning};
    use super::*;

    #[test]
    fn secrets_that_others_may_read_are_found() {
        for (mode, verdict) in
            [(0o600, Fine), (0o440, Fine), (0o644, Failed), (0o660, Failed), (0o606, Failed)]
        {
            assert_eq!(secret_mode(Path::new("/k"), mode).verdict, verdict, "{mode:o}");
        }
        assert_eq!(secret(Path::new("/absent")).verdict, Failed);
        assert_eq!(directory_mode("d", Path::new("/d"), 0o700).verdict, Fine);
        assert_eq!(directory_mode("d", Path::new("/d"), 0o755).verdict, Warning);
    }

    #[test]
    fn a_certificate_that_ends_soon_is_found() {
        let file = Path::new("/c.pem");
        let validity = Validity { from: 0, to: 90 * DAY_S };
        for (day, verdict) in [(1, Fine), (75, Fine), (77, Warning), (90, Failed), (-1, Failed)] {
            assert_eq!(certificate(file, validity, day * DAY_S).verdict, verdict, "day {day}");
        }
        for (day, verdict) in [(1, Fine), (60, Fine), (70, Warning), (91, Failed)] {
            assert_eq!(node_certificate(file, validity, day * DAY_S).verdict, verdict, "day {day}");
        }
    }

    #[test]
    fn the_end_of_a_chain_is_that_of_its_first_certificate_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("chain.pem");
        let made = |year: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((late, key), (early, _)) = (made(2041), made(2040));
        std::fs::write(&file, [key, late, early].concat()).unwrap();
        let found = validity(&file).unwrap();
        assert_eq!(found, Validity { from: 1_577_836_800, to: 2_208_988_800 });
        std::fs::write(&file, "nothing").unwrap();
        assert!(validity(&file).is_err());
        assert_eq!(unreadable(&file, "has no certificate").verdict, Failed);
    }

    #[test]
    fn every_place_of_a_secret_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            Some(file)
        };
        let dataplane = write(
            "d.toml",
            "[credentials.A]\nfile = '/a'\n[http.tls]\nkey_file = '/b'\ncertificate_file = '/c'\n\
             [[http.tls.certificates]]\nkey_file = '/d'\ncertificate_file = '/e'\n",
        );
        let controlplane = write(
            "c.toml",
            "[admin]\nbootstrap_key_file = '/f'\n[registry]\npassword_file = '/g'\n\
             [clickhouse]\npassword_file = '/h'\n",
        );
        let found = Installation::find(&Places { dataplane, controlplane, data_dir: None });
        let files = secret_files(&found);
        let expected = ["/a", "/b", "/d", "/f", "/g", "/h"].map(PathBuf::from);
        assert_eq!(files.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(certificates(&found).0, [PathBuf::from("/c"), PathBuf::from("/e")]);
        let findings = examine(&found);
        assert!(findings.iter().all(|finding| finding.verdict == Failed), "{findings:?}");
        assert_eq!(findings.len(), 8);
    }
}
