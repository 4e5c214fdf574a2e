//! References to other objects. They are objects themselves, so that they can grow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names an OutboundGateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Name of the OutboundGateway.
    #[serde(default = "default_gateway")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the OutboundGateway; default: the namespace of this object. A gateway in another
    /// namespace must list this object's namespace in its `allowedNamespaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

fn default_gateway() -> String {
    super::DEFAULT_GATEWAY.to_owned()
}

impl Default for GatewayRef {
    fn default() -> Self {
        Self { name: default_gateway(), namespace: None }
    }
}

/// Names an OutboundRoute in the namespace of the object that refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteRef {
    /// Name of the OutboundRoute, in the same namespace and attached to the same gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names a key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret, in the same namespace. It is used only if it has the label
    /// `postern.dev/use: "true"`, or if its type is kubernetes.io/tls or kubernetes.io/basic-auth.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Names a Directory in the namespace of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirectoryRef {
    /// Name of the Directory, in the same namespace and attached to this gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names a key of a ConfigMap in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceKind {
    ConfigMap,
    Secret,
}

/// Names a key of a ConfigMap or of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// ConfigMap or Secret. A Secret is used only if its type is kubernetes.io/tls or
    /// kubernetes.io/basic-auth, or if it has the label `postern.dev/use: "true"`.
    pub kind: SourceKind,
    /// Name of the ConfigMap or Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the ConfigMap or Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}
