//! What quickstart says once all is ready: one line of JSON, or what a newcomer wants to paste.

use std::io::Write as _;

use serde::Serialize;

use super::pids::PidTable;
use super::setup::DemoKey;
use super::state::Upstream;
use super::{Quickstart, QuickstartError};
use crate::cli::Format;
use crate::clickhouse::engine::Endpoint;
use crate::clickhouse::engine::config::ANALYST;

/// Where everything is.
#[derive(Serialize)]
pub(super) struct Report {
    base_url: String,
    api_key: Option<String>,
    key_id: String,
    alias: String,
    admin_url: String,
    admin_key: String,
    clickhouse_url: String,
    clickhouse_user: String,
    clickhouse_password: String,
    ops_url: String,
    data_dir: String,
    pids: PidTable,
    #[serde(skip)]
    upstream: Upstream,
    #[serde(skip)]
    headers_file: String,
    #[serde(skip)]
    admin_key_file: String,
}

impl Report {
    pub(super) fn new(started: &Quickstart, key: DemoKey, admin_key: String, clickhouse: Endpoint) -> Self {
        let (addresses, data) = (&started.addresses, &started.data);
        Self {
            base_url: format!("http://{}/v1", addresses.http.address()),
            api_key: key.secret,
            key_id: key.id,
            alias: key.alias,
            admin_url: format!("http://{}", addresses.admin.address()),
            admin_key,
            clickhouse_url: clickhouse.url,
            clickhouse_user: clickhouse.user,
            clickhouse_password: clickhouse.password,
            ops_url: format!("http://{}", addresses.ops.address()),
            data_dir: data.root().display().to_string(),
            pids: started.pids.table(),
            upstream: started.upstream.clone(),
            headers_file: data.clickhouse_headers_file().display().to_string(),
            admin_key_file: data.admin_key_file().display().to_string(),
        }
    }

    /// Prints it to stdout.
    pub(super) fn print(&self, format: Format) -> Result<(), QuickstartError> {
        let text = match format {
            Format::Json | Format::Jsonl => serde_json::to_string(self).expect("text becomes JSON") + "\n",
            _ => self.text(),
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|source| QuickstartError::Stdout { source })
    }

    fn text(&self) -> String {
        let shown = match &self.api_key {
            Some(key) => format!("{key}   (shown this once; only its hash is kept)"),
            None => format!("{}, shown at the first start: put it in LIUTONG_API_KEY", self.key_id),
        };
        // As it was called: it need not be in PATH.
        let liutong = std::env::args().next().unwrap_or_else(|| "liutong".to_owned());
        let key = self.api_key.as_deref().unwrap_or("$LIUTONG_API_KEY");
        let Self { base_url, alias, key_id, data_dir, clickhouse_url, admin_url, .. } = self;
        let (headers_file, admin_key_file, served_by) =
            (&self.headers_file, &self.admin_key_file, self.served_by());
        format!(
            r#"
Liutong is running. Ctrl-C stops it; a later start on the same data goes on from there.

  base URL   {base_url}
  API key    {shown}
  model      {alias}   ({served_by})

Try it:

  curl -N {base_url}/chat/completions -H "Authorization: Bearer {key}" -H 'Content-Type: application/json' \
    -d '{{"model":"{alias}","stream":true,"messages":[{{"role":"user","content":"hello from Liutong"}}]}}'

With the OpenAI SDK (pip install openai):

  OPENAI_BASE_URL={base_url} OPENAI_API_KEY="{key}" python3 -c 'from openai import OpenAI; \
    print(OpenAI().chat.completions.create(model="{alias}", messages=[{{"role":"user","content":"hello"}}]))'

Usage is in ClickHouse at {clickhouse_url} a second later (user {ANALYST}, read only; data in {data_dir}):

  curl -H '@{headers_file}' {clickhouse_url} \
    --data-binary 'SELECT * FROM liutong.usage ORDER BY ts DESC LIMIT 10 FORMAT PrettyCompact'

Administer it, at {admin_url}:

  export LIUTONG_ADMIN_URL={admin_url} LIUTONG_ADMIN_KEY_FILE='{admin_key_file}'
  {liutong} usage --by team,model
  {liutong} key revoke {key_id}

"#
        )
    }

    fn served_by(&self) -> String {
        match &self.upstream {
            Upstream::Demo { .. } => {
                "the built-in demo upstream, which streams the prompt's words back".to_owned()
            }
            Upstream::Url { url, model, .. } => format!("{model} at {url}"),
        }
    }
}
