//! Where the planes' configurations are, and what places they name.
//!
//! A configuration is read here for its paths and addresses alone, and loosely: the planes themselves say
//! what is wrong with one. No secret is read.

use std::path::{Path, PathBuf};

use toml::Table;

use super::{Finding, Places};

const ETC: &str = "/etc/liutong";

/// A plane's configuration.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Plane {
    /// The file.
    pub(in crate::cli) file: PathBuf,
    /// What it says.
    pub(in crate::cli) config: Table,
}

impl Plane {
    /// The text under a path of keys, such as `admin.listen`.
    pub(super) fn text(&self, keys: &str) -> Option<&str> {
        let mut keys = keys.split('.');
        let mut at = self.config.get(keys.next()?)?;
        for key in keys {
            at = at.get(key)?;
        }
        at.as_str()
    }

    /// The directory that `data_dir` names.
    pub(in crate::cli) fn data_dir(&self) -> Option<&Path> {
        self.text("data_dir").map(Path::new)
    }
}

/// What there is of an installation on this machine.
#[derive(Debug, Default)]
pub(in crate::cli) struct Installation {
    /// The data plane.
    pub(in crate::cli) dataplane: Option<Plane>,
    /// The control plane.
    pub(in crate::cli) controlplane: Option<Plane>,
    /// A quickstart's data directory.
    pub(in crate::cli) quickstart: Option<PathBuf>,
    /// What is wrong with the files themselves.
    pub(super) findings: Vec<Finding>,
}

impl Installation {
    /// Looks where `places` says, else in `/etc/liutong`, else at the quickstart of this user.
    pub(in crate::cli) fn find(places: &Places) -> Self {
        let given = |file: &Option<PathBuf>, name: &str| {
            let default = || Some(Path::new(ETC).join(name)).filter(|file| file.exists());
            file.clone().or_else(default)
        };
        let (mut dataplane, mut controlplane) = (None, None);
        if places.data_dir.is_none() {
            dataplane = given(&places.dataplane, "dataplane.toml");
            controlplane = given(&places.controlplane, "controlplane.toml");
        }
        let nothing = dataplane.is_none() && controlplane.is_none();
        let quickstart = places.data_dir.clone().or_else(|| own_quickstart().filter(|_| nothing));
        if let Some(dir) = &quickstart {
            dataplane = Some(dir.join("config/dataplane.toml"));
            controlplane = Some(dir.join("config/controlplane.toml"));
        }
        let mut found = Self { quickstart, ..Self::default() };
        found.dataplane = found.plane("data plane", dataplane);
        found.controlplane = found.plane("control plane", controlplane);
        found
    }

    fn plane(&mut self, name: &str, file: Option<PathBuf>) -> Option<Plane> {
        let check = format!("configuration, {name}");
        let Some(file) = file else {
            self.findings.push(Finding::skipped(check, "there is none on this machine"));
            return None;
        };
        let shown = file.display();
        match std::fs::read_to_string(&file).map(|text| text.parse::<Table>()) {
            Ok(Ok(config)) => {
                self.findings.push(Finding::ok(check, shown.to_string()));
                Some(Plane { file, config })
            }
            // The parser's words may repeat a secret.
            Ok(Err(_)) => {
                let mend = format!("start the {name}: it names the line");
                self.findings.push(Finding::failed(check, format!("{shown} is no TOML"), mend));
                None
            }
            Err(error) => {
                let mend = format!("name the file, or run this as a user who may read {shown}");
                self.findings.push(Finding::failed(check, format!("{shown}: {error}"), mend));
                None
            }
        }
    }

    /// Both planes, as far as they are here.
    pub(super) fn planes(&self) -> impl Iterator<Item = (&'static str, &Plane)> {
        let named = [("data plane", &self.dataplane), ("control plane", &self.controlplane)];
        named.into_iter().filter_map(|(name, plane)| Some((name, plane.as_ref()?)))
    }
}

/// Where `liutong quickstart` keeps everything unless it is told otherwise.
fn own_quickstart() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("liutong")).filter(|dir| dir.join("config").is_dir())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn files_that_can_not_be_used_are_found_and_their_text_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good.toml");
        std::fs::write(&good, "data_dir = '/d'\n[admin]\nlisten = '127.0.0.1:1'\n").unwrap();
        let bad = dir.path().join("bad.toml");
        std::fs::write(&bad, "password = hunter2\n").unwrap();
        let find = |dataplane: &Path, controlplane: &Path| {
            let (dataplane, controlplane) = (Some(dataplane.into()), Some(controlplane.into()));
            Installation::find(&Places { dataplane, controlplane, data_dir: None })
        };
        let found = find(&good, &bad);
        assert_eq!(found.dataplane.as_ref().unwrap().text("admin.listen"), Some("127.0.0.1:1"));
        assert_eq!(found.dataplane.as_ref().unwrap().text("admin.listen.x"), None);
        let verdicts: Vec<Verdict> = found.findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Failed]);
        assert!(!format!("{:?}", found.findings).contains("hunter2"));
        let absent = find(&good, Path::new("/absent"));
        assert_eq!(absent.findings[1].verdict, Verdict::Failed);
    }
}
