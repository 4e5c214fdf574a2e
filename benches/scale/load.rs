//! What authors write: gateways, rules by the thousand, one change; and how long that takes to be obeyed.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use postern::api::{ComplianceRule, OutboundGateway};
use serde_json::{Value, json};

/// Objects written at once.
const AT_ONCE: usize = 32;

pub struct Load {
    client: Client,
}

fn is_ready(rule: &ComplianceRule, generation: i64) -> bool {
    let conditions = rule.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        condition.type_ == "Ready"
            && condition.status == "True"
            && condition.observed_generation == Some(generation)
    })
}

fn name(number: usize) -> String {
    format!("rule-{number:05}")
}

fn spec(gateway: &str, number: usize, word: &str) -> Value {
    let expression = json!({
        "location": "Body", "type": "MatchesRegex", "value": format!(r"(?i)\bproject[- ]{number}x\b"),
    });
    let words: Vec<String> =
        (0..5).map(|at| format!("forbidden{number}x{at}")).chain([word.to_owned()]).collect();
    json!({
        "gatewayRef": {"name": gateway},
        "description": format!("Rule {number}"),
        "messages": ["Outbound"],
        "envelope": {"senders": {"address": format!("person{}@solarmora.com", number % 997)}},
        "match": {"words": words, "expressions": [expression]},
        "action": {"modify": {"subjectPrefix": format!("[{number}] ")}},
    })
}

impl Load {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn rules_api(&self, namespace: &str) -> Api<ComplianceRule> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.patch(name, &PatchParams::apply("author"), &Patch::Apply(&namespace)).await?;
        Ok(())
    }

    pub async fn gateway(&self, namespace: &str, name: &str, pods: usize) -> anyhow::Result<()> {
        let api: Api<OutboundGateway> = Api::namespaced(self.client.clone(), namespace);
        let gateway = json!({
            "apiVersion": "postern.dev/v1alpha1",
            "kind": "OutboundGateway",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "replicas": pods,
                "domains": ["solarmora.com"],
                "clients": {"cidrs": ["10.0.0.0/8"]},
                "defaultRoute": {"host": "relay.example.net"},
                "storage": {"ephemeral": true},
            },
        });
        let params = PatchParams::apply("author").force();
        api.patch(name, &params, &Patch::Apply(&gateway)).await.context("the gateway")?;
        Ok(())
    }

    /// Rules with five words, an expression and one sender each.
    pub async fn rules(&self, namespace: &str, gateway: &str, numbers: Range<usize>) -> anyhow::Result<()> {
        let api = self.rules_api(namespace);
        let write = |number: usize| {
            let api = api.clone();
            let rule = json!({
                "apiVersion": "postern.dev/v1alpha1",
                "kind": "ComplianceRule",
                "metadata": {"name": name(number), "namespace": namespace},
                "spec": spec(gateway, number, "confidential"),
            });
            async move {
                let params = PatchParams::apply("author").force();
                api.patch(&name(number), &params, &Patch::Apply(&rule)).await.map(drop)
            }
        };
        futures::stream::iter(numbers.map(write)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(())
    }

    pub async fn wait_all_ready(&self, namespace: &str, rules: usize) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(900);
        loop {
            let (mut ready, mut page) = (0, ListParams::default().limit(500));
            loop {
                let list = self.rules_api(namespace).list(&page).await?;
                ready +=
                    list.iter().filter(|rule| is_ready(rule, rule.metadata.generation.unwrap_or(0))).count();
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = ListParams::default().limit(500).continue_token(&token),
                    None => break,
                }
            }
            if ready >= rules {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{ready} of {rules} rules are Ready");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Changes one rule; how long from the API server's acceptance until it says Ready.
    pub async fn change(&self, namespace: &str, number: usize, word: &str) -> anyhow::Result<Duration> {
        let api = self.rules_api(namespace);
        let rule = name(number);
        let config = watcher::Config::default().fields(&format!("metadata.name={rule}"));
        let mut seen = watcher(api.clone(), config).default_backoff().applied_objects().boxed();
        seen.try_next().await?;
        let words = &spec("", number, word)["match"]["words"];
        let patch = json!({"spec": {"match": {"words": words}}});
        let written = api.patch(&rule, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        let accepted = Instant::now();
        let generation = written.metadata.generation.unwrap_or_default();
        let ready = async {
            while let Some(rule) = seen.try_next().await? {
                if is_ready(&rule, generation) {
                    break;
                }
            }
            Ok::<_, watcher::Error>(())
        };
        tokio::time::timeout(Duration::from_secs(60), ready).await.context(rule)??;
        Ok(accepted.elapsed())
    }
}
