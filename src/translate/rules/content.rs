//! What a ComplianceRule searches for.

use ipnet::IpNet;

use crate::api::checks;
use crate::api::compliance_rule::{self as spec, Match};
use crate::api::expression::{self as expr, ExpressionType, MetadataName};
use crate::api::units::Quantity;
use crate::bundle::document::{
    Combine, Confidence, Confusables, Content, Detection, Detector, Expression, ExpressionKind, Location,
    Metadata, NameTest, TextExpression, WordOptions,
};
use crate::translate::lists;
use crate::translate::order::Pass;
use crate::translate::problem::{Findings, Problem};

pub fn conditions(pass: &Pass<'_>, namespace: &str, matches: &Match, findings: &mut Findings) -> Content {
    let Match { words, words_from, word_options, search_html_source, expressions, combine } = matches;
    let something = !words.is_empty() || !words_from.is_empty() || !expressions.is_empty();
    findings.check(something, "spec.match", &checks::MATCH_SOMETHING);
    let spec::WordOptions { ignore_accents, confusables, turkish, substrings } = word_options;
    Content {
        words: lists::words(matches, namespace, pass.resources, findings),
        word_options: WordOptions {
            ignore_accents: *ignore_accents,
            confusables: match confusables {
                spec::Confusables::Disabled => Confusables::Disabled,
                spec::Confusables::MixedScript => Confusables::MixedScript,
                spec::Confusables::All => Confusables::All,
            },
            turkish: *turkish,
            substrings: substrings.iter().map(|word| word.trim().to_owned()).collect(),
        },
        search_html_source: *search_html_source,
        expressions: expressions
            .iter()
            .enumerate()
            .filter_map(|(at, given)| {
                expression(pass, &format!("spec.match.expressions[{at}]"), given, findings)
            })
            .collect(),
        combine: match combine {
            spec::Combine::Any => Combine::Any,
            spec::Combine::All => Combine::All,
        },
    }
}

fn expression(
    pass: &Pass<'_>,
    path: &str,
    given: &expr::Expression,
    findings: &mut Findings,
) -> Option<Expression> {
    let expr::Expression { location, metadata, detector, kind, value, min_count, confidence } = given;
    let count =
        usize::from(location.is_some()) + usize::from(metadata.is_some()) + usize::from(detector.is_some());
    findings.check(count == 1, path, &checks::EXPRESSION_ONE_OF);
    findings.check(confidence.is_none() || detector.is_some(), path, &checks::EXPRESSION_CONFIDENCE);
    findings.check(metadata.is_none() || *min_count == 1, path, &checks::EXPRESSION_COUNT);
    if count != 1 {
        return None;
    }
    if let Some(detector) = detector {
        let alone = kind.is_none() && value.is_none();
        findings.check(alone, path, &checks::EXPRESSION_DETECTOR);
        return Some(Expression::Detector(Detection {
            detector: detected(*detector),
            min_count: (*min_count).max(1),
            confidence: match confidence.unwrap_or_default() {
                expr::Confidence::Low => Confidence::Low,
                expr::Confidence::Medium => Confidence::Medium,
                expr::Confidence::High => Confidence::High,
            },
        }));
    }
    findings.check(kind.is_some(), path, &checks::EXPRESSION_TYPE);
    let kind = (*kind)?;
    match kind {
        ExpressionType::IsEmpty => findings.check(value.is_none(), path, &checks::EXPRESSION_NO_VALUE),
        _ => findings.check(value.is_some(), path, &checks::EXPRESSION_VALUE),
    }
    let value = value.as_deref();
    match (location, metadata) {
        (Some(location), _) => text(pass, path, *location, kind, value, *min_count, findings),
        (None, Some(metadata)) => {
            known(pass, path, *metadata, kind, value?, findings).map(Expression::Metadata)
        }
        (None, None) => None,
    }
}

fn text(
    pass: &Pass<'_>,
    path: &str,
    location: expr::Location,
    kind: ExpressionType,
    value: Option<&str>,
    min_count: u32,
    findings: &mut Findings,
) -> Option<Expression> {
    let comparison = comparison(kind);
    findings.check(comparison.is_some(), path, &checks::EXPRESSION_TEXT_TYPE);
    let kind = comparison?;
    let value = match (kind, value) {
        (ExpressionKind::IsEmpty, _) => "",
        (ExpressionKind::MatchesRegex | ExpressionKind::NotMatchesRegex, Some(value)) => {
            findings.ok(pass.patterns.search(&format!("{path}.value"), value))?;
            value
        }
        (_, Some(value)) => value,
        (_, None) => return None,
    };
    Some(Expression::Text(TextExpression {
        location: place(location),
        kind,
        value: value.to_owned(),
        min_count: min_count.max(1),
    }))
}

/// A condition on what is known of a message besides its text.
fn known(
    pass: &Pass<'_>,
    path: &str,
    name: MetadataName,
    kind: ExpressionType,
    value: &str,
    findings: &mut Findings,
) -> Option<Metadata> {
    use ExpressionType::{In, Is, Matches, NotIn, Over, Under};
    let at = format!("{path}.value");
    let flag = |findings: &mut Findings| {
        let read = match value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Problem::invalid(at.as_str(), checks::EXPRESSION_IS.message)),
        };
        findings.ok(read)
    };
    let size = |findings: &mut Findings| {
        let bytes = Quantity::new(value).bytes();
        findings.ok(bytes.ok_or_else(|| Problem::invalid(at.as_str(), checks::QUANTITY.message)))
    };
    let name_test = |findings: &mut Findings| match kind {
        Matches => {
            findings.ok(pass.patterns.search(&at, value))?;
            Some(NameTest::Matches(value.to_owned()))
        }
        _ => Some(NameTest::Is(value.to_owned())),
    };
    Some(match (name, kind) {
        (MetadataName::SourceIp, In | NotIn) => {
            Metadata::SourceIp { networks: networks(&at, value, findings)?, negated: kind == NotIn }
        }
        (MetadataName::Authenticated, Is) => Metadata::Authenticated(flag(findings)?),
        (MetadataName::InboundTls, Is) => Metadata::InboundTls(flag(findings)?),
        (MetadataName::SmimeSigned, Is) => Metadata::SmimeSigned(flag(findings)?),
        (MetadataName::SmimeEncrypted, Is) => Metadata::SmimeEncrypted(flag(findings)?),
        (MetadataName::AttachmentEncrypted, Is) => Metadata::AttachmentEncrypted(flag(findings)?),
        (MetadataName::MessageSize, Over) => Metadata::MessageSizeOver(size(findings)?),
        (MetadataName::MessageSize, Under) => Metadata::MessageSizeUnder(size(findings)?),
        (MetadataName::AttachmentType, Is | Matches) => Metadata::AttachmentType(name_test(findings)?),
        (MetadataName::AttachmentName, Is | Matches) => Metadata::AttachmentName(name_test(findings)?),
        _ => {
            findings.check(false, path, &checks::EXPRESSION_METADATA_TYPE);
            return None;
        }
    })
}

/// Networks separated by blanks or commas; a bare address is a network of one.
fn networks(path: &str, text: &str, findings: &mut Findings) -> Option<Vec<IpNet>> {
    let mut networks = Vec::new();
    for word in text.split([',', ' ', '\t', '\n', '\r']).filter(|word| !word.is_empty()) {
        match word.parse::<IpNet>().or_else(|_| word.parse::<std::net::IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => findings.invalid(path, format!("{word:?} is {}", checks::CIDR.message)),
        }
    }
    if networks.is_empty() {
        findings.invalid(path, format!("holds no network; {}", checks::CIDR.message));
    }
    (!networks.is_empty()).then_some(networks)
}

fn detected(detector: expr::Detector) -> Detector {
    match detector {
        expr::Detector::PaymentCard => Detector::PaymentCard,
        expr::Detector::Iban => Detector::Iban,
        expr::Detector::EmailAddress => Detector::EmailAddress,
        expr::Detector::PhoneNumber => Detector::PhoneNumber,
        expr::Detector::UsSocialSecurityNumber => Detector::UsSocialSecurityNumber,
        expr::Detector::UkNationalInsuranceNumber => Detector::UkNationalInsuranceNumber,
        expr::Detector::GermanTaxId => Detector::GermanTaxId,
        expr::Detector::FrenchSocialSecurityNumber => Detector::FrenchSocialSecurityNumber,
        expr::Detector::SpanishDni => Detector::SpanishDni,
        expr::Detector::ItalianFiscalCode => Detector::ItalianFiscalCode,
        expr::Detector::DutchBsn => Detector::DutchBsn,
        expr::Detector::SwedishPersonalNumber => Detector::SwedishPersonalNumber,
        expr::Detector::IndonesianNik => Detector::IndonesianNik,
        expr::Detector::JapaneseMyNumber => Detector::JapaneseMyNumber,
        expr::Detector::ChineseResidentId => Detector::ChineseResidentId,
        expr::Detector::IndianAadhaar => Detector::IndianAadhaar,
        expr::Detector::BrazilianCpf => Detector::BrazilianCpf,
        expr::Detector::PrivateKey => Detector::PrivateKey,
        expr::Detector::AccessKey => Detector::AccessKey,
    }
}

fn place(location: expr::Location) -> Location {
    match location {
        expr::Location::HeadersAndBody => Location::HeadersAndBody,
        expr::Location::FullHeaders => Location::FullHeaders,
        expr::Location::Body => Location::Body,
        expr::Location::Subject => Location::Subject,
        expr::Location::FromHeader => Location::FromHeader,
        expr::Location::RecipientsHeader => Location::RecipientsHeader,
        expr::Location::EnvelopeSender => Location::EnvelopeSender,
        expr::Location::AnyEnvelopeRecipient => Location::AnyEnvelopeRecipient,
        expr::Location::RawMessage => Location::RawMessage,
        expr::Location::Attachments => Location::Attachments,
    }
}

/// `None`: a type of metadata.
fn comparison(kind: ExpressionType) -> Option<ExpressionKind> {
    Some(match kind {
        ExpressionType::StartsWith => ExpressionKind::StartsWith,
        ExpressionType::EndsWith => ExpressionKind::EndsWith,
        ExpressionType::Contains => ExpressionKind::Contains,
        ExpressionType::NotContains => ExpressionKind::NotContains,
        ExpressionType::Equals => ExpressionKind::Equals,
        ExpressionType::IsEmpty => ExpressionKind::IsEmpty,
        ExpressionType::MatchesRegex => ExpressionKind::MatchesRegex,
        ExpressionType::NotMatchesRegex => ExpressionKind::NotMatchesRegex,
        ExpressionType::AnyWord => ExpressionKind::AnyWord,
        ExpressionType::AllWords => ExpressionKind::AllWords,
        ExpressionType::In
        | ExpressionType::NotIn
        | ExpressionType::Is
        | ExpressionType::Over
        | ExpressionType::Under
        | ExpressionType::Matches => return None,
    })
}
