//! Alerts and dashboard: real promtool reads them, each alert fires on its series and has words for whoever is
//! woken by it, and nothing asks for a metric that the product does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::chart::{named, objects, rendered, root, run};
use crate::support::sink::{Behaviour, Sink};
use crate::support::site::{PARTNER, Site, message};
use crate::support::{client, wait};

const RULES: &str = "charts/postern/monitoring/rules.yaml";
const SERIES: &str = "tests/monitoring/alerts.test.yaml";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("readable")
}

/// A file of YAML that is no object of Kubernetes.
fn data(path: &str) -> Value {
    objects(&format!("kind: Data\n{}", read(path))).remove(0)
}

fn alerts() -> Vec<Value> {
    let rules = data(RULES);
    let groups = rules["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).cloned().collect()
}

#[test]
fn promtool_reads_the_rules_and_every_alert_fires_on_its_series() {
    let promtool = Path::new("promtool");
    let checked = run(promtool, &["check", "rules", RULES]).unwrap_or_else(|error| panic!("{error}"));
    assert!(checked.contains("SUCCESS"), "{checked}");
    let tested = run(promtool, &["test", "rules", SERIES]).unwrap_or_else(|error| panic!("{error}"));
    assert!(tested.contains("SUCCESS"), "{tested}");
    let series = data(SERIES);
    let cases = series["tests"].as_array().expect("tests");
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("an alert has a name");
        let case = cases.iter().find(|case| case["name"] == name);
        let case = case.unwrap_or_else(|| panic!("{SERIES} has no series for {name}"));
        let samples: Vec<usize> = case["promql_expr_test"]
            .as_array()
            .expect("it asks")
            .iter()
            .map(|asked| asked["exp_samples"].as_array().map_or(0, Vec::len))
            .collect();
        assert!(samples.contains(&0) && samples.iter().any(|count| *count > 0), "{name}: quiet and firing");
    }
}

#[test]
fn every_alert_says_what_is_wrong_how_bad_it_is_and_where_help_is() {
    let manual = read("docs/alerts.md");
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name").to_owned();
        let severity = alert["labels"]["severity"].as_str().expect("a severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for text in ["summary", "description", "runbook_url"] {
            assert!(
                alert["annotations"][text].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: {text}"
            );
        }
        let link = alert["annotations"]["runbook_url"].as_str().expect("checked");
        assert!(link.ends_with(&format!("/docs/alerts.md#{}", name.to_lowercase())), "{name}: {link}");
        let section = manual.split("\n### ").find(|section| section.starts_with(&format!("{name}\n")));
        let section = section.unwrap_or_else(|| panic!("docs/alerts.md does not speak of {name}"));
        let text = section.trim_start_matches(&name).trim();
        assert!(text.starts_with(&format!("{severity}.")), "{name}: the page names another severity");
        assert!(text.len() > 100, "{name}: say what to do");
        assert!(names.insert(name), "two alerts of one name");
    }
    for section in manual.split("\n### ").skip(1) {
        let name = section.lines().next().expect("a heading");
        assert!(names.contains(name), "docs/alerts.md speaks of {name}, which is no alert");
    }
}

#[test]
fn rule_and_dashboard_are_shipped_as_they_are() {
    let sets = [
        "prometheusRule.enabled=true",
        "prometheusRule.labels.release=prometheus",
        "dashboards.enabled=true",
    ];
    let objects = rendered(&sets);
    let rule = named(&objects, "PrometheusRule", "postern");
    assert_eq!(rule["spec"]["groups"], data(RULES)["groups"]);
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    let map = named(&objects, "ConfigMap", "postern-dashboards");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let shipped: Value =
        serde_json::from_str(map["data"]["postern.json"].as_str().expect("text")).expect("still JSON");
    let file: Value = serde_json::from_str(&read("charts/postern/dashboards/postern.json")).expect("JSON");
    assert_eq!(shipped, file);
    let nothing = rendered(&[]);
    assert!(
        !nothing.iter().any(|object| object["kind"] == "PrometheusRule" || object["kind"] == "PodMonitor")
    );
}

/// Words that begin with `postern_` and are no label.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c))
        .filter(|word| word.starts_with("postern_") && *word != "postern_dev_gateway")
        .map(str::to_owned)
        .collect()
}

fn asked_for() -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for alert in alerts() {
        asked.extend(metrics_in(alert["expr"].as_str().expect("an expression")));
    }
    let dashboard: Value =
        serde_json::from_str(&read("charts/postern/dashboards/postern.json")).expect("JSON");
    fn expressions(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                Value::String(text) if ["expr", "query", "definition"].contains(&key.as_str()) => {
                    found.push(text.clone());
                }
                value => expressions(value, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "{found:?}");
    asked.extend(found.iter().flat_map(|text| metrics_in(text)));
    asked
}

/// The name a metric is registered by.
fn base(name: &str) -> &str {
    let parts = ["_total", "_bucket", "_sum", "_count"];
    parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

/// Names as the sources register them; those of the operator in their own registry.
fn registered() -> BTreeSet<String> {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() { sources(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        names.extend(text.split('"').filter(|part| part.starts_with("postern_")).map(str::to_owned));
        if file.ends_with("controller/metrics.rs") {
            let operators = text.split('"').map(|word| format!("postern_controller_{word}"));
            names.extend(operators.clone());
            names.extend(operators.map(|name| name + "_seconds"));
        }
    }
    names
}

#[test]
fn nothing_asks_for_a_metric_that_the_product_does_not_have() {
    let (registered, manual) = (registered(), read("docs/operations.md"));
    for name in asked_for() {
        assert!(registered.contains(base(&name)) || registered.contains(&name), "nobody registers {name}");
        let own = base(&name).trim_start_matches("postern_controller_");
        assert!(manual.contains(own), "docs/operations.md does not list {name}");
    }
}

#[test]
fn metrics_are_asked_for_by_the_names_a_scrape_shows() {
    let sink = wait(Sink::start(Behaviour::default()));
    let site = Site::new("scrape", sink.address);
    site.rule("seen", "{modify: {subjectPrefix: seen}}");
    let gateway = site.start();
    let reply = client::send(gateway.smtp, "ani@solarmora.com", &[PARTNER], &message("one"));
    assert!(reply.starts_with("250"), "{reply}");
    gateway.wait_empty();
    let (_, text) = gateway.get("/metrics").expect("metrics are served");
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(types.len() > 20, "{text}");
    let mut seen = 0;
    for name in asked_for() {
        let Some(kind) = types.get(base(&name)).or_else(|| types.get(name.as_str())) else { continue };
        let fits = match *kind {
            "counter" => name.ends_with("_total"),
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|part| name.ends_with(part)),
            _ => types.contains_key(name.as_str()),
        };
        assert!(fits, "{name} is a {kind}");
        seen += 1;
    }
    assert!(seen > 20, "only {seen} of them were looked at:\n{text}");
}
