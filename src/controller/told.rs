//! Errors of the API server and of the way to it, in words for a log or a status.

use std::error::Error;

/// What the API server said, without the rest of its answer; or why it could not be asked.
pub fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => with_causes(other),
    }
}

/// An error and what caused it: "client error (Connect)" alone does not say that the connection was refused.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Many say what their cause says.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("client error (Connect)")]
        Silent(#[source] std::io::Error),
        #[error("cannot read: {0}")]
        Telling(#[source] Box<Failed>),
    }

    #[test]
    fn an_error_is_told_down_to_its_cause_and_nothing_twice() {
        let refused = || Failed::Silent(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(with_causes(&refused()), "client error (Connect): connection refused");
        let outer = Failed::Telling(refused().into());
        assert_eq!(with_causes(&outer), "cannot read: client error (Connect): connection refused");
    }
}
