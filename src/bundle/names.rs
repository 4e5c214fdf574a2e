//! The names in certificates of the control port: who asks, and who answers. Both halves must agree on them.

/// In the controller's certificate.
pub const CONTROLLER: &str = "controller.postern.internal";

/// In the certificate of a gateway's pods. The controller reaches pods by address and checks this name; so do pods
/// of one gateway among each other.
pub fn gateway(namespace: &str, gateway: &str) -> String {
    format!("{gateway}.{namespace}.gateway.postern.internal")
}
