//! The rules over fields, in one table: CEL for the API server, and the words both halves use.
//!
//! The API server evaluates `cel` at admission. `translate` re-checks the same in Rust, because `check`
//! and `standalone` have no API server; it uses `message`, so that a mistake reads the same everywhere.
//! Every list and string a rule walks over is bounded, or the API server refuses the rule as too costly.

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// True when all is well; `self` is the value the check stands at.
    pub cel: &'static str,
    /// What is wrong, in plain words.
    pub message: &'static str,
    /// Replaces `message` where it holds a number.
    pub message_cel: Option<&'static str>,
}

const fn check(cel: &'static str, message: &'static str) -> Check {
    Check { cel, message, message_cel: None }
}

/// A host or domain name, as a CEL string: labels of letters, digits, hyphens and underscores in any script.
macro_rules! host_name {
    () => {
        r"r'^[\p{L}\p{N}_]([\p{L}\p{M}\p{N}_-]*[\p{L}\p{M}\p{N}_])?(\.[\p{L}\p{N}_]([\p{L}\p{M}\p{N}_-]*[\p{L}\p{M}\p{N}_])?)*$'"
    };
}

// Values

pub const QUANTITY: Check =
    check("isQuantity(string(self))", "not a size: write a number with k, M, G, Ki, Mi or Gi, such as 50Mi");
pub const DURATION: Check = check(
    r"self.matches(r'^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('8760h')",
    "not a duration: write hours, minutes and seconds such as 120h, 5m or 1h30m (there are no days)",
);
pub const REVISION: Check = check(
    "self.matches('^[0-9a-f]{16}$')",
    "not a revision: 16 digits and letters from a to f, as `postern rollback --list` shows them",
);
pub const HOSTNAME: Check = check(concat!("self.matches(", host_name!(), ")"), "not a domain name");
pub const HOST: Check = check(
    concat!("isIP(self) || self.matches(", host_name!(), ")"),
    "not a host name or IP address (write IPv6 addresses without brackets)",
);
pub const CIDR: Check =
    check("isCIDR(self)", "not a network in CIDR form, such as 10.0.0.0/8, 192.0.2.1/32 or 2001:db8::/32");
pub const IP: Check = check("isIP(self)", "not an IP address");
pub const DNS_SERVER: Check = check(
    r"isIP(self) || self.matches(r'^([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$')",
    "not an IP address, or IP address and port such as 192.0.2.53:53 or [2001:db8::53]:53",
);
pub const ANCHORS_NEED_DNSSEC: Check =
    check("!has(self.trustAnchors) || self.dnssec", "trustAnchors mean nothing without dnssec: true");
pub const TRUST_ANCHOR: Check = check(
    r"self.matches(r'^[^ ]+ ([0-9]+ )?IN DNSKEY (256|257) 3 (8|10|13|14|15) [A-Za-z0-9+/ ]+=*$')",
    "not a DNSKEY record such as `example.net. IN DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9x…`",
);
pub const ADDRESS: Check = check(r"self.matches(r'^.+@[^@\s]+$')", "not an e-mail address");
pub const PATTERN: Check = check(
    "''.matches(self) in [true, false]",
    "not a regular expression (RE2 syntax; no look-around, no back-references)",
);
pub const ONE_LINE: Check =
    check(r"!self.matches(r'[\x00-\x08\x0A-\x1F\x7F]')", "must be one line without control characters");

// OutboundGateway

pub const GATEWAY_NAME: Check = check(
    r"size(self.metadata.name) <= 40 && self.metadata.name.matches(r'^[a-z]([a-z0-9-]*[a-z0-9])?$')",
    "the name of an OutboundGateway has at most 40 lower-case letters, digits and hyphens and begins with a letter, because a Service and pods are named after it",
);
pub const CLUSTER_POLICY: Check = check(
    "!(has(self.service) && has(self.service.externalTrafficPolicy) && self.service.externalTrafficPolicy == 'Cluster' \
     && has(self.clients) && ((has(self.clients.cidrs) && size(self.clients.cidrs) > 0) \
     || (has(self.clients.spfDomains) && size(self.clients.spfDomains) > 0)) \
     && !(has(self.listeners) && self.listeners.all(l, has(l.proxyProtocol))))",
    "service.externalTrafficPolicy Cluster hides the addresses of clients, so clients.cidrs and clients.spfDomains cannot work: use Local, or set proxyProtocol on every listener",
);
pub const PORT_NAME: Check = check(
    r"self.matches(r'^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.matches('[a-z]')",
    "a listener's name has at most 15 lower-case letters, digits and hyphens, and at least one letter",
);
pub const LISTENER_PORT: Check = check(
    "!(self in [8025, 8026]) && (self < 10000 || self > 11023)",
    "ports 8025, 8026 and 10000 to 11023 are taken by the gateway itself",
);
pub const LISTENER_PORTS: Check =
    check("self.all(a, self.exists_one(b, a.port == b.port))", "two listeners have the same port");
/// A name to log in with; for the schema.
pub const LOGIN_FORM: &str = r"^[^\s\x00-\x1F\x7F]+$";
/// An address, `@domain` or `<>`; for the schema.
pub const SENDER_FORM: &str = r"^(<>|[^\x00-\x1F\x7F]*@[^@\s]+)$";
pub const DEFAULT_ROUTE_ONE_OF: Check =
    check("has(self.host) != has(self.name)", "defaultRoute takes exactly one of host and name");
pub const DEFAULT_ROUTE_PORT: Check =
    check("!has(self.port) || has(self.host)", "defaultRoute.port needs defaultRoute.host");
pub const EPHEMERAL_ALONE: Check = check(
    "!self.ephemeral || (!has(self.size) && !has(self.storageClassName))",
    "ephemeral storage has no size and no storageClassName",
);
pub const EPHEMERAL_FIXED: Check = check(
    "self.ephemeral == oldSelf.ephemeral",
    "storage.ephemeral cannot be changed: make a new OutboundGateway",
);
pub const STORAGE_CLASS_FIXED: Check = check(
    "has(self.storageClassName) == has(oldSelf.storageClassName) \
     && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    "storage.storageClassName cannot be changed: make a new OutboundGateway",
);
pub const STORAGE_GROWS: Check = check(
    "quantity(has(self.size) ? string(self.size) : '10Gi')\
     .compareTo(quantity(has(oldSelf.size) ? string(oldSelf.size) : '10Gi')) >= 0",
    "storage.size can only grow",
);
pub const MESSAGE_SIZE: Check = check(
    "!isQuantity(string(self)) || (quantity(string(self)).isGreaterThan(quantity('0')) \
     && !quantity(string(self)).isGreaterThan(quantity('1Gi')))",
    "limits.messageSize must be more than 0 and at most 1Gi",
);
pub const POLICY_NEEDS_OUTSIDE: Check = check(
    "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'",
    "service.externalTrafficPolicy needs service.type NodePort or LoadBalancer",
);
pub const LOAD_BALANCER_ONLY: Check = check(
    "self.type == 'LoadBalancer' || (!has(self.loadBalancerClass) && !has(self.loadBalancerSourceRanges))",
    "service.loadBalancerClass and service.loadBalancerSourceRanges need service.type LoadBalancer",
);

// OutboundRoute

pub const MX_NEEDS_HOSTS: Check = check(
    "!self.mxLookup || (has(self.hosts) && size(self.hosts) > 0)",
    "mxLookup needs a domain name in hosts",
);
pub const MX_IP: Check = check(
    "!self.mxLookup || !has(self.hosts) || self.hosts.all(h, !isIP(h.host))",
    "mxLookup needs domain names in hosts, not IP addresses",
);
pub const MX_WEIGHT: Check = check(
    "!self.mxLookup || !has(self.hosts) || self.hosts.all(h, !has(h.weight))",
    "weight has no meaning with mxLookup: MX preferences decide",
);
pub const MX_SECONDARY: Check = check(
    "!self.mxLookup || !has(self.secondaryHosts) || size(self.secondaryHosts) == 0",
    "secondaryHosts has no meaning with mxLookup: MX preferences decide",
);
pub const SECONDARY_ALONE: Check = check(
    "!has(self.secondaryHosts) || size(self.secondaryHosts) == 0 || (has(self.hosts) && size(self.hosts) > 0)",
    "secondaryHosts needs hosts",
);
pub const WEIGHTS_HOSTS: Check = check(
    "!has(self.hosts) || self.hosts.all(h, has(h.weight)) || self.hosts.all(h, !has(h.weight))",
    "hosts: give a weight to every host or to none",
);
pub const WEIGHTS_SECONDARY: Check = check(
    "!has(self.secondaryHosts) || self.secondaryHosts.all(h, has(h.weight)) || self.secondaryHosts.all(h, !has(h.weight))",
    "secondaryHosts: give a weight to every host or to none",
);
pub const WEIGHT_SUM_HOSTS: Check = Check {
    cel: "!has(self.hosts) || size(self.hosts) == 0 || !self.hosts.all(h, has(h.weight)) \
          || self.hosts.map(h, h.weight).sum() == 100",
    message: "hosts: the weights must sum to 100",
    message_cel: Some(
        "'hosts: the weights sum to %d; they must sum to 100'.format([self.hosts.map(h, h.weight).sum()])",
    ),
};
pub const WEIGHT_SUM_SECONDARY: Check = Check {
    cel: "!has(self.secondaryHosts) || size(self.secondaryHosts) == 0 || !self.secondaryHosts.all(h, has(h.weight)) \
          || self.secondaryHosts.map(h, h.weight).sum() == 100",
    message: "secondaryHosts: the weights must sum to 100",
    message_cel: Some(
        "'secondaryHosts: the weights sum to %d; they must sum to 100'.format([self.secondaryHosts.map(h, h.weight).sum()])",
    ),
};
pub const CERTIFICATE_NEEDS_TLS: Check = check(
    "self.require || (!(has(self.requireCaSigned) && self.requireCaSigned) \
     && !(has(self.validateHostname) && self.validateHostname))",
    "certificate checks need tls.require",
);
pub const TLS_TERMS_NEED_TLS: Check = check(
    "self.require || (!has(self.minVersion) && !has(self.clientCertificateRef))",
    "tls.minVersion and tls.clientCertificateRef need tls.require",
);
pub const AUTH_NEEDS_VERIFIED: Check = check(
    "!has(self.auth) || !has(self.tls) || (self.tls.require \
     && (!has(self.tls.requireCaSigned) || self.tls.requireCaSigned) \
     && (!has(self.tls.validateHostname) || self.tls.validateHostname))",
    "auth needs tls.require, tls.requireCaSigned and tls.validateHostname: a password is said only to a host that proved who it is",
);
pub const AUTH_NEEDS_HOSTS: Check = check(
    "!has(self.auth) || (has(self.hosts) && size(self.hosts) > 0 \
     && (!self.mxLookup || (has(self.tls) && has(self.tls.serverName))))",
    "auth needs hosts, and with mxLookup also tls.serverName: names that come from DNS could be anybody's, and the password would go there",
);
pub const RETRY_ORDER: Check = check(
    "!has(self.initial) || !has(self.max) || duration(self.initial) <= duration(self.max)",
    "retry.initial must not be longer than retry.max",
);
pub const PROBE_INTERVAL: Check = check(
    "!has(self.interval) || (duration(self.interval) >= duration('10s') && duration(self.interval) <= duration('168h'))",
    "probe.interval must be between 10s and 168h; to have no tests, set probe.mode: Disabled",
);
pub const EGRESS_ADDRESSES: Check = check(
    "self.sources.all(a, self.sources.exists_one(b, a.address == b.address))",
    "two egress sources have the same address",
);
pub const SOURCE_ADDRESS: Check = check(
    "isIP(self) && !ip(self).isUnspecified() && !ip(self).isLinkLocalMulticast()",
    "not an IP address that mail can leave from (write IPv6 addresses without brackets)",
);
pub const HOST_PORT: Check = check(
    r"self.matches(r'^([^:\[\]\s/@]+|\[[0-9A-Fa-f:.]+\]):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$')",
    "not a host and port, such as proxy.example.net:1080 or [2001:db8::1]:1080",
);
pub const MOMENT: Check = check(
    r"self.matches(r'^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-][0-2][0-9]:[0-5][0-9])$')",
    "not a moment in RFC 3339 form, such as 2026-11-22T00:00:00Z",
);
pub const USERNAME_NEEDS_PASSWORD: Check =
    check("!has(self.usernameRef) || has(self.passwordRef)", "usernameRef needs passwordRef");

/// What [`WEIGHT_SUM_HOSTS`] and [`WEIGHT_SUM_SECONDARY`] say.
pub fn weight_sum(set: &str, sum: u32) -> String {
    format!("{set}: the weights sum to {sum}; they must sum to 100")
}

// Rules: scope

/// What holds between the fields of a rule.
pub const RULE: &[Check] = &[
    GROUP_SENDERS,
    GROUP_RECIPIENTS,
    UNRECOGNIZED_RECEIVES,
    QUARANTINE_USERS,
    SPAM_HEADERS_USERS,
    REROUTE_SPAM_USERS,
    BYPASS_USERS,
    BYPASS_INBOUND,
    DROP_SPAM_GROUPS,
];
macro_rules! unit_form {
    () => {
        r"^(/|(/[^/\x00-\x20\x7F]([^/\x00-\x1F\x7F]*[^/\x00-\x20\x7F])?)+)$"
    };
}
/// The form of [`UNIT`], for the schema.
pub const UNIT_FORM: &str = unit_form!();
pub const UNIT: Check = check(
    concat!("self.matches(r'", unit_form!(), "')"),
    "an organizational unit is a path such as /sales/export; the root is /",
);
pub const GROUP_SENDERS: Check = check(
    "!has(self.envelope) || !has(self.envelope.senders) || !has(self.envelope.senders.groups) \
     || self.messages.all(m, m in ['Outbound', 'InternalSending'])",
    "envelope.senders.groups works on sent mail only: messages may hold only Outbound and InternalSending",
);
pub const GROUP_RECIPIENTS: Check = check(
    "!has(self.envelope) || !has(self.envelope.recipients) || !has(self.envelope.recipients.groups) \
     || self.messages.all(m, m in ['Inbound', 'InternalReceiving'])",
    "envelope.recipients.groups works on received mail only: messages may hold only Inbound and InternalReceiving",
);
pub const UNRECOGNIZED_RECEIVES: Check = check(
    "!('Unrecognized' in self.accountTypes) || self.messages.exists(m, m in ['Inbound', 'InternalReceiving'])",
    "account type Unrecognized applies to received mail only: messages needs Inbound or InternalReceiving",
);
pub const QUARANTINE_USERS: Check = check(
    "!has(self.action.quarantine) || self.accountTypes.all(a, a == 'Users')",
    "quarantine is available for account type Users only",
);
pub const SPAM_HEADERS_USERS: Check = check(
    "!has(self.action.modify) || !self.action.modify.spamHeaders || self.accountTypes.all(a, a == 'Users')",
    "spamHeaders is available for account type Users only",
);
pub const REROUTE_SPAM_USERS: Check = check(
    "!has(self.action.modify) || !has(self.action.modify.route) || !self.action.modify.route.rerouteSpam \
     || self.accountTypes.all(a, a == 'Users')",
    "route.rerouteSpam is available for account type Users only",
);
pub const BYPASS_USERS: Check = check(
    "!has(self.action.modify) || !self.action.modify.bypassSpamFilter || self.accountTypes.all(a, a == 'Users')",
    "bypassSpamFilter is available for account type Users only",
);
pub const BYPASS_INBOUND: Check = check(
    "!has(self.action.modify) || !self.action.modify.bypassSpamFilter || 'Inbound' in self.messages",
    "bypassSpamFilter applies to inbound messages only",
);
pub const DROP_SPAM_GROUPS: Check = check(
    "!('Groups' in self.accountTypes) || !has(self.action.modify) || !has(self.action.modify.addRecipients) \
     || self.action.modify.addRecipients.all(r, !has(r.dropSpam) || !r.dropSpam)",
    "addRecipients[].dropSpam is not available for account type Groups",
);
pub const ENVELOPE_SOMETHING: Check =
    check("has(self.senders) || has(self.recipients)", "envelope needs senders, recipients or both");
pub const FILTER_ONE_OF: Check = check(
    "[has(self.address), has(self.pattern), has(self.groups)].exists_one(given, given)",
    "exactly one of address, pattern and groups must be given",
);

// Rules: what is searched for

pub const MATCH_SOMETHING: Check = check(
    "(has(self.words) && size(self.words) > 0) || (has(self.wordsFrom) && size(self.wordsFrom) > 0) \
     || (has(self.expressions) && size(self.expressions) > 0)",
    "match needs words, wordsFrom or expressions",
);
pub const EXPRESSION_ONE_OF: Check = check(
    "[has(self.location), has(self.metadata), has(self.detector)].exists_one(given, given)",
    "exactly one of location, metadata and detector must be given",
);
pub const EXPRESSION_TYPE: Check = check(
    "!(has(self.location) || has(self.metadata)) || has(self.type)",
    "an expression with location or metadata needs a type",
);
pub const EXPRESSION_DETECTOR: Check = check(
    "!has(self.detector) || (!has(self.type) && !has(self.value))",
    "a detector has no type and no value: give minCount and confidence",
);
pub const EXPRESSION_TEXT_TYPE: Check = check(
    "!has(self.location) || !has(self.type) || !(self.type in ['In', 'NotIn', 'Is', 'Over', 'Under', 'Matches'])",
    "the types In, NotIn, Is, Over, Under and Matches are for metadata; with location use one of StartsWith, EndsWith, Contains, NotContains, Equals, IsEmpty, MatchesRegex, NotMatchesRegex, AnyWord and AllWords",
);
pub const EXPRESSION_METADATA_TYPE: Check = check(
    "!has(self.metadata) || !has(self.type) \
     || (self.metadata == 'SourceIP' ? self.type in ['In', 'NotIn'] \
     : self.metadata == 'MessageSize' ? self.type in ['Over', 'Under'] \
     : self.metadata in ['AttachmentType', 'AttachmentName'] ? self.type in ['Is', 'Matches'] \
     : self.type == 'Is')",
    "this metadata does not take this type: SourceIP takes In and NotIn, MessageSize Over and Under, AttachmentType and AttachmentName Is and Matches, the others Is",
);
pub const EXPRESSION_VALUE: Check = check(
    "!has(self.type) || self.type == 'IsEmpty' || has(self.value)",
    "every type of expression but IsEmpty needs a value",
);
pub const EXPRESSION_NO_VALUE: Check = check(
    "!has(self.type) || self.type != 'IsEmpty' || !has(self.value)",
    "an expression of type IsEmpty has no value",
);
pub const EXPRESSION_PATTERN: Check = check(
    "!has(self.type) || !(self.type in ['MatchesRegex', 'NotMatchesRegex', 'Matches']) || !has(self.value) \
     || ''.matches(self.value) in [true, false]",
    PATTERN.message,
);
pub const EXPRESSION_IS: Check = check(
    "!has(self.metadata) || self.metadata in ['SourceIP', 'MessageSize', 'AttachmentType', 'AttachmentName'] \
     || !has(self.value) || self.value in ['true', 'false']",
    "the value is \"true\" or \"false\", in quotes",
);
pub const EXPRESSION_SIZE: Check = check(
    "!has(self.metadata) || self.metadata != 'MessageSize' || !has(self.value) || isQuantity(self.value)",
    QUANTITY.message,
);
pub const EXPRESSION_COUNT: Check =
    check("!has(self.metadata) || self.minCount == 1", "minCount has no meaning with metadata");
pub const EXPRESSION_CONFIDENCE: Check =
    check("!has(self.confidence) || has(self.detector)", "confidence has a meaning with detector only");

// Rules: what happens

pub const ACTION_ONE_OF: Check = check(
    "[has(self.reject), has(self.quarantine), has(self.modify)].exists_one(given, given)",
    "exactly one of reject, quarantine and modify must be given",
);
pub const MODIFY_EMPTY: Check = check(
    "self.originalToHeader || self.spamHeaders || (has(self.headers) && size(self.headers) > 0) \
     || has(self.subjectPrefix) || has(self.route) || has(self.envelopeRecipient) || self.bypassSpamFilter \
     || has(self.removeAttachments) || (has(self.addRecipients) && size(self.addRecipients) > 0) \
     || (has(self.encryption) && (self.encryption.requireTls || has(self.encryption.smime))) \
     || has(self.footer) || self.stripAmp",
    "modify changes nothing: give headers, subjectPrefix, route, envelopeRecipient, removeAttachments, addRecipients, encryption, footer or one of the switches",
);
pub const NOTICE: Check = check(
    r"!self.matches(r'[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]')",
    "a notice is plain text: only line breaks and tabs are allowed as control characters",
);
pub const FOOTER: Check = check(
    NOTICE.cel,
    "a footer is plain text or HTML: only line breaks and tabs are allowed as control characters",
);
pub const ASCII_NOTICE: Check =
    check(r"self.matches(r'^[\x09\x0A\x0D\x20-\x7E]*$')", "asciiNotice must be plain ASCII text");
pub const ENHANCED_CODE: Check =
    check(r"self.matches(r'^5\.7\.(1|9[0-9][0-9])$')", "enhancedCode must be 5.7.1 or 5.7.900 to 5.7.999");
pub const HEADER_NAME: Check = check(
    r"self.matches(r'^[!-9;-~]+$')",
    "a header's name has only printable ASCII characters, no blank and no colon",
);
pub const HEADER_FORBIDDEN: Check = check(
    "!(self.lowerAscii() in ['from', 'to', 'cc', 'bcc', 'subject', 'date', 'message-id', 'received', 'return-path', \
     'mime-version', 'dkim-signature', 'authentication-results']) && !self.lowerAscii().startsWith('content-') \
     && !self.lowerAscii().startsWith('arc-')",
    "this header cannot be added, because mail systems read it (From, To, Cc, Bcc, Subject, Date, Message-ID, Received, Return-Path, MIME-Version, Content-*, DKIM-Signature, ARC-*, Authentication-Results)",
);
pub const RECIPIENT_ONE_OF: Check = check(
    "[has(self.address), has(self.user), has(self.domain)].exists_one(given, given)",
    "exactly one of address, user and domain must be given",
);
pub const LOCAL_PART: Check = check(
    r"self.matches(r'^[^@\s\x00-\x1F\x7F]+$')",
    "not the local part of an address (what stands before the @)",
);
pub const REMOVAL_EMPTY: Check = check(
    "self.all || (has(self.types) && size(self.types) > 0) || (has(self.names) && size(self.names) > 0) \
     || has(self.largerThan)",
    "removeAttachments removes nothing: give all, types, names or largerThan",
);
pub const MEDIA_TYPE: Check = check(
    r"self.matches(r'^[A-Za-z0-9!#$&^_.+-]+/([A-Za-z0-9!#$&^_.+-]+|\*)$')",
    "not a media type such as application/pdf or image/*",
);
/// Added recipients of one rule (spec R96).
pub const MAX_ADDED: usize = 100;
pub const TOO_MANY_ADDED: Check = Check {
    cel: "size(self) <= 100",
    message: "too many added recipients (maximum 100); use a group address",
    message_cel: Some(
        "'too many added recipients: %d (maximum 100); use a group address'.format([size(self)])",
    ),
};
pub const SMIME_EMPTY: Check =
    check("self.encrypt || self.sign", "smime does nothing without encrypt: true or sign: true");

/// What [`TOO_MANY_ADDED`] says.
pub fn too_many_added(count: usize) -> String {
    format!("too many added recipients: {count} (maximum {MAX_ADDED}); use a group address")
}

// OutboundGateway: mail

pub const SCANNER_URL: Check = check(
    "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",
    "not an address of a web server, such as http://rspamd:11333",
);
pub const CERTIFICATES_ONE_OF: Check = check(
    "[has(self.configMapRef), has(self.secretRef), has(self.directoryRef)].exists_one(given, given)",
    "exactly one of configMapRef, secretRef and directoryRef must be given",
);

// AddressList, Directory

pub const ENTRY_ONE_OF: Check =
    check("has(self.address) != has(self.domain)", "exactly one of address and domain must be given");
/// `RoutingRule/<name>`, or with a namespace before the name; for the schema.
pub const RULE_NAME_FORM: &str =
    r"^(RoutingRule|ComplianceRule)(/[a-z0-9-]+)?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";
pub const RULE_NAME: &str = "not the name of a rule: write RoutingRule/<name> or ComplianceRule/<name>, with the namespace before the name if it is another one";

macro_rules! ldap_url {
    () => {
        r"^ldaps?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
    };
}
pub const LDAP_URL: Check = check(
    concat!("self.matches(r'", ldap_url!(), "')"),
    "not the address of an LDAP server: write ldaps://host or ldap://host (which means StartTLS), with :port if it is not 636 or 389",
);
pub const BASE_DN: Check = check(
    r"self.matches(r'^[A-Za-z0-9][A-Za-z0-9.-]* *= *[^, =]')",
    "not the name of an entry, such as dc=solarmora,dc=com",
);
pub const LDAP_REFRESH: Check = check(
    r"self.matches(r'^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",
    "refresh must be 1s to 24h",
);
pub const LDAP_FILTER: Check = check(
    "self.startsWith('(') && self.endsWith(')')",
    "not an LDAP filter, such as (objectClass=inetOrgPerson)",
);
/// The name of an attribute; for the schema.
pub const ATTRIBUTE_FORM: &str = r"^[A-Za-z0-9][A-Za-z0-9.-]*$";
/// The same with options, such as `userCertificate;binary`.
pub const OPTIONS_FORM: &str = r"^[A-Za-z0-9][A-Za-z0-9.-]*(;[A-Za-z0-9-]+)*$";

/// Whether [`LDAP_URL`] holds.
pub fn is_ldap_url(text: &str) -> bool {
    let rest = text.strip_prefix("ldaps://").or_else(|| text.strip_prefix("ldap://"));
    let Some(rest) = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest)) else { return false };
    let (host, port) = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, port)) => match host.parse::<std::net::Ipv6Addr>() {
            Ok(_) => ("host", port.strip_prefix(':').or((!port.is_empty()).then_some("?"))),
            Err(_) => return false,
        },
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // `parse` takes a sign too.
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !host.is_empty() && host.chars().all(named) && port.is_none_or(digits)
}

/// The fields that [`HEADER_FORBIDDEN`] speaks of.
pub fn is_forbidden_header(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "from",
        "to",
        "cc",
        "bcc",
        "subject",
        "date",
        "message-id",
        "received",
        "return-path",
        "mime-version",
        "dkim-signature",
        "authentication-results",
    ];
    let name = name.to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || name.starts_with("content-") || name.starts_with("arc-")
}
