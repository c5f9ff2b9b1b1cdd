//! Sends messages: webhooks over HTTPS, signed and to public addresses only, and e-mails over SMTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use lettre::message::{Mailbox, MultiPart};
use lettre::{SmtpTransport, Transport};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};
use ring::hmac;

use super::Destination;
use super::address::{AllowedTargets, PRIVATE};
use super::message::Message;
use crate::config::MessageConfig;
use crate::error::{Error, ErrorCode, Result};

/// The header with the signature of a webhook.
const SIGNATURE: &str = "x-echopilot-signature";
/// Time for one message, from the name of the host to the response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that are sent at once, so that a slow receiver does not delay all others.
const AT_ONCE: usize = 8;
/// Time to wait for look-ups of names that nothing waits for any more.
const LAST_LOOKUPS: Duration = Duration::from_millis(100);

/// Sends messages with the settings of the process.
#[derive(Debug)]
pub struct MessageSender {
    allowed: Arc<AllowedTargets>,
    smtp: Option<SmtpTransport>,
    from: Mailbox,
}

impl MessageSender {
    /// A sender with these settings. It connects to nothing.
    ///
    /// # Errors
    /// `bad_smtp` if the URL of the mail server or the address of the sender is wrong. The message
    /// does not have the URL, which may have a password.
    pub fn new(config: &MessageConfig) -> Result<Self> {
        let bad = |message: String| Error::bad_input(ErrorCode::BadSmtp, message);
        let smtp = match &config.smtp_url {
            None => None,
            Some(url) => Some(transport(url).map_err(bad)?),
        };
        let from = config.smtp_from.parse().map_err(|_| {
            bad("--smtp-from is not an e-mail address such as Analytics <stats@example.com>".into())
        })?;
        Ok(Self {
            allowed: Arc::new(config.webhook_allow.clone()),
            smtp,
            from,
        })
    }

    /// Checks that messages to these destinations may be sent with the settings.
    ///
    /// # Errors
    /// `bad_alert` with the place.
    pub fn check(&self, to: &[String]) -> Result<()> {
        for (place, to) in to.iter().enumerate() {
            // What it is was checked with the alert.
            let checked = match Destination::parse(to) {
                Ok(Destination::Webhook(url) | Destination::Slack(url)) => self.allowed.check(&url),
                Ok(Destination::Mail(_)) if self.smtp.is_none() => {
                    Err("e-mails need --smtp-url".into())
                }
                Ok(Destination::Mail(_)) | Err(_) => Ok(()),
            };
            checked.map_err(|message| {
                Error::bad_input(ErrorCode::BadAlert, format!("to[{place}]: {message}"))
            })?;
        }
        Ok(())
    }

    /// Sends messages, each once. Returns the outcome of each, in any order, as soon as all are
    /// known. `key` signs webhooks.
    ///
    /// # Errors
    /// If the system cannot start the work.
    pub fn send(
        &self,
        messages: Vec<Message>,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<(Message, Result<(), String>)>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("send messages"))?;
        let sent = runtime.block_on(async {
            let client = self.client();
            let sending = messages.into_iter().map(|message| {
                let client = client.as_ref();
                async move {
                    let sent = self.send_one(client, &message, key, now).await;
                    (message, sent)
                }
            });
            stream::iter(sending)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await
        });
        runtime.shutdown_timeout(LAST_LOOKUPS);
        Ok(sent)
    }

    fn client(&self) -> Result<Client, String> {
        Client::builder()
            // A redirect could lead to another address, and with another method.
            .redirect(redirect::Policy::none())
            // A proxy would hide the address that is connected to.
            .no_proxy()
            .dns_resolver(Arc::new(Checked(self.allowed.clone())))
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("EchoPilot/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(words_of)
    }

    async fn send_one(
        &self,
        client: Result<&Client, &String>,
        message: &Message,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        match Destination::parse(&message.to)? {
            Destination::Webhook(url) => {
                let body = message.webhook();
                let signature = signature(key, now.timestamp(), &body);
                let client = client.map_err(Clone::clone)?;
                self.post(client, url, body, Some(signature)).await
            }
            Destination::Slack(url) => {
                let client = client.map_err(Clone::clone)?;
                self.post(client, url, message.slack(), None).await
            }
            Destination::Mail(to) => self.mail(*to, message, now).await,
        }
    }

    async fn post(
        &self,
        client: &Client,
        url: Url,
        body: Vec<u8>,
        signature: Option<String>,
    ) -> Result<(), String> {
        self.allowed.check(&url)?;
        let mut request = client
            .post(url)
            .header("content-type", "application/json")
            .body(body);
        if let Some(signature) = signature {
            request = request.header(SIGNATURE, signature);
        }
        // The body of the response is not read.
        let response = request
            .send()
            .await
            .map_err(|error| words_of(error.without_url()))?;
        let status = response.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!(
                "the webhook responded with status {}; allowed is 200 to 299, without a redirect",
                status.as_u16()
            )),
        }
    }

    async fn mail(&self, to: Mailbox, message: &Message, now: DateTime<Utc>) -> Result<(), String> {
        let smtp = self.smtp.clone().ok_or("e-mails need --smtp-url")?;
        let mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(&message.subject)
            .date(now.into())
            // The same in each attempt, so that mail programs show it once.
            .message_id(Some(format!("<{}@echopilot>", message.id)))
            .multipart(MultiPart::alternative_plain_html(
                message.plain.clone(),
                message.html.clone(),
            ))
            .map_err(words_of)?;
        let sent = tokio::task::spawn_blocking(move || smtp.send(&mail).map(drop));
        match sent.await {
            Ok(sent) => sent.map_err(words_of),
            Err(_) => Err("the e-mail was not sent".into()),
        }
    }
}

/// The mail server of a URL.
fn transport(url: &str) -> Result<SmtpTransport, String> {
    const ALLOWED: &str = "allowed is smtps://USER:PASSWORD@HOST, or smtp://HOST:587?tls=required";
    let parsed = Url::parse(url).map_err(|error| format!("--smtp-url: {error}; {ALLOWED}"))?;
    let is_plain = parsed.scheme() == "smtp"
        && !parsed
            .query_pairs()
            .any(|(name, value)| name == "tls" && value == "required");
    let host = parsed.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if is_plain && parsed.password().is_some() && !is_local {
        return Err(format!(
            "--smtp-url would send its password without encryption; {ALLOWED}"
        ));
    }
    let builder = SmtpTransport::from_url(url).map_err(|_| format!("--smtp-url: {ALLOWED}"))?;
    Ok(builder.timeout(Some(TIMEOUT)).build())
}

/// Resolves names to the addresses that webhooks may go to: the connection is made to one of these
/// and not to what a second look-up could return.
struct Checked(Arc<AllowedTargets>);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::net::lookup_host((host, 0)).await?;
            let found: Vec<SocketAddr> = found
                .filter(|found| allowed.allow(host, found.ip()))
                .collect();
            if found.is_empty() {
                return Err(PRIVATE.into());
            }
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

/// The signature of a body at a time, as a header has it: the time in seconds since 1970, and the
/// HMAC-SHA256 of the time, a dot and the body, in hexadecimal. The key is its ASCII characters.
pub fn signature(key: &str, seconds: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut signed = hmac::Context::with_key(&key);
    signed.update(format!("{seconds}.").as_bytes());
    signed.update(body);
    format!("t={seconds},v1={}", hex::encode(signed.sign()))
}

/// An error with its causes.
fn words_of(error: impl std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words += &format!(": {cause_words}");
        }
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(smtp_url: Option<&str>, allow: &str) -> MessageConfig {
        MessageConfig {
            smtp_url: smtp_url.map(str::to_owned),
            smtp_from: "EchoPilot <echopilot@localhost>".into(),
            webhook_allow: allow.parse().expect("a list"),
        }
    }

    #[test]
    fn a_password_is_never_sent_without_encryption_nor_printed() {
        for (url, is_allowed) in [
            ("smtps://user:secret@mail.example", true),
            ("smtp://mail.example", true),
            ("smtp://user:secret@mail.example:587?tls=required", true),
            ("smtp://user:secret@localhost:2525", true),
            ("smtp://user:secret@[::1]:2525", true),
            ("smtp://user:secret@mail.example", false),
            ("smtp://user:secret@mail.example?tls=opportunistic", false),
            ("smtp://user:secret@mail.example?tls=no", false),
            ("https://user:secret@mail.example", false),
            ("user:secret", false),
            ("", false),
        ] {
            let made = MessageSender::new(&config(Some(url), ""));
            assert_eq!(made.is_ok(), is_allowed, "{url}");
            if let Err(error) = made {
                assert!(!error.to_string().contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn destinations_are_checked_with_the_settings() {
        let to = |to: &str| [to.to_owned()];
        let none = MessageSender::new(&config(None, "")).expect("a sender");
        for (destination, says) in [
            ("mailto:a@b.example", "to[0]: e-mails need --smtp-url"),
            ("http://hooks.example/x", "to[0]: the webhook has http"),
            ("https://127.0.0.1/x", "to[0]: the host of the webhook has"),
        ] {
            let said = none.check(&to(destination)).expect_err(says).to_string();
            assert!(said.contains(says), "{said}");
        }
        let smtp = config(Some("smtp://127.0.0.1:1"), "127.0.0.1");
        let all = MessageSender::new(&smtp).expect("a sender");
        for destination in [
            "mailto:a@b.example",
            "http://127.0.0.1/x",
            "https://a.example",
        ] {
            assert!(all.check(&to(destination)).is_ok(), "{destination}");
        }
    }

    #[test]
    fn a_signature_is_the_hmac_of_time_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            signature("key", 1_700_000_000, b"{}"),
            "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
        );
    }
}
