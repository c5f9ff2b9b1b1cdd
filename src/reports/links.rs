//! Share links: each lets the client that has its token see one report or board, until it expires
//! or is revoked. Only a digest of the token is stored.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::{check_length, parse};
use crate::config::Origins;
use crate::error::{Error, ErrorCode, Result, shown};
use crate::store::folder::Folder;
use crate::window::utc_string;

/// Its name in the data folder.
pub const FILE_NAME: &str = "share_links.json";
/// Most links: all are compared with the key of a request.
const MAX_LINKS: usize = 1_000;
/// Most days until a link expires.
const MAX_DAYS: i64 = 365;
/// Days until a link expires, unless the request says otherwise.
const DEFAULT_DAYS: i64 = 30;
/// Most origins whose pages may embed a link.
const MAX_ORIGINS: usize = 10;
/// Bytes of an id, which is not secret.
const ID_BYTES: usize = 8;
/// Bytes of a token.
const TOKEN_BYTES: usize = 32;

/// A share link, without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ShareLink)]
pub struct Link {
    /// Its id, which is not secret.
    pub id: String,
    /// The id of the report or board that it shows.
    pub report: String,
    /// Time of its creation.
    pub created_at: String,
    /// Name of the key that created it.
    pub created_by: String,
    /// Time from which it is not valid.
    pub expires_at: DateTime<Utc>,
    /// Origins whose pages may embed it.
    #[serde(default)]
    pub origins: Vec<String>,
}

/// A new share link: its token is in no other response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = NewShareLink)]
pub struct NewLink {
    /// The link.
    #[serde(flatten)]
    pub link: Link,
    /// The token, which is sent like a key.
    pub token: String,
    /// Path of the page, below that of the dashboard. The token is in the fragment, which browsers
    /// do not send.
    pub path: String,
}

/// A request for a share link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ShareLinkRequest)]
pub struct LinkRequest {
    /// Days until it expires; 30 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 365)]
    pub expires_in_days: Option<i64>,
    /// Origins whose pages may embed it, such as `https://example.com`.
    #[serde(default)]
    #[schema(max_items = 10)]
    pub origins: Vec<String>,
}

impl LinkRequest {
    /// Reads a request from JSON.
    ///
    /// # Errors
    /// `bad_share_link`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse(json, ErrorCode::BadShareLink)
    }
}

/// A link with the digest of its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    link: Link,
    /// Of its token, in hexadecimal.
    sha256: String,
}

/// All links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Links {
    /// Oldest first.
    stored: Vec<Stored>,
}

impl Links {
    /// Reads the links.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file does not match its checksum.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Writes the links, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// The link whose token has this digest, if it is valid. The time depends on the number of
    /// links alone.
    pub fn with_token(&self, sha256: &[u8; 32], now: DateTime<Utc>) -> Option<&Link> {
        let sent = hex::encode(sha256);
        let mut found = None;
        for stored in &self.stored {
            if bool::from(stored.sha256.as_bytes().ct_eq(sent.as_bytes())) {
                found = Some(&stored.link);
            }
        }
        found.filter(|link| now < link.expires_at)
    }

    /// Origins whose pages may embed a link; none if it does not exist or has expired.
    pub fn origins(&self, id: &str, now: DateTime<Utc>) -> &[String] {
        let found = self.stored.iter().find(|stored| stored.link.id == id);
        let valid = found.filter(|stored| now < stored.link.expires_at);
        valid.map_or(&[], |stored| &stored.link.origins)
    }

    /// The links of a report that have not expired, oldest first.
    pub fn of(&self, report: &str, now: DateTime<Utc>) -> Vec<Link> {
        let links = self.stored.iter().map(|stored| &stored.link);
        links
            .filter(|link| link.report == report && now < link.expires_at)
            .cloned()
            .collect()
    }

    /// Adds a link to a report, and drops those that have expired.
    ///
    /// # Errors
    /// `bad_share_link` if the request is wrong or there are too many, and if the system has no
    /// random bytes.
    pub fn add(
        &mut self,
        report: &str,
        request: LinkRequest,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<NewLink> {
        let bad = |message: String| Error::bad_input(ErrorCode::BadShareLink, message);
        let days = request.expires_in_days.unwrap_or(DEFAULT_DAYS);
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(bad(format!(
                "expires_in_days is {days}; allowed is 1 to {MAX_DAYS}"
            )));
        }
        check_length("origins", request.origins.len(), MAX_ORIGINS).map_err(bad)?;
        let origins = request.origins.iter().enumerate();
        let origins = origins
            .map(|(place, origin)| {
                origin_of(origin).map_err(|message| bad(format!("origins[{place}] {message}")))
            })
            .collect::<Result<Vec<String>>>()?;
        self.stored.retain(|stored| now < stored.link.expires_at);
        if self.stored.len() >= MAX_LINKS {
            return Err(bad(format!(
                "there are {MAX_LINKS} share links, which is the limit; revoke one first"
            )));
        }
        let token = random::<TOKEN_BYTES>()?;
        let link = Link {
            id: random::<ID_BYTES>()?,
            report: report.to_owned(),
            created_at: utc_string(now),
            created_by: by.to_owned(),
            expires_at: now + TimeDelta::days(days),
            origins,
        };
        self.stored.push(Stored {
            link: link.clone(),
            sha256: hex::encode(Sha256::digest(&token)),
        });
        let path = format!("/shared/{}#/shared?token={token}", link.id);
        Ok(NewLink { link, token, path })
    }

    /// Revokes a link of a report.
    ///
    /// # Errors
    /// `unknown_share_link`.
    pub fn revoke(&mut self, report: &str, id: &str) -> Result<()> {
        let before = self.stored.len();
        self.stored
            .retain(|stored| stored.link.report != report || stored.link.id != id);
        if self.stored.len() == before {
            let id = shown(id);
            return Err(Error::NotFound {
                code: ErrorCode::UnknownShareLink,
                message: format!("the report has no share link {id:?}"),
            });
        }
        Ok(())
    }

    /// Revokes all links of a report. Returns whether there were any.
    pub fn revoke_all(&mut self, report: &str) -> bool {
        let before = self.stored.len();
        self.stored.retain(|stored| stored.link.report != report);
        self.stored.len() < before
    }
}

/// An origin as a header lists it.
fn origin_of(origin: &str) -> Result<String, String> {
    let listed = Origins::from_str(origin).ok();
    let listed = listed.as_ref().and_then(Origins::listed);
    let is_web = |origin: &str| origin.starts_with("https://") || origin.starts_with("http://");
    match listed {
        Some([one]) if is_web(one) => Ok(one.clone()),
        _ => {
            let origin = shown(origin);
            Err(format!(
                "is {origin:?}; allowed is an origin such as https://example.com"
            ))
        }
    }
}

fn random<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::system("make a share link")(std::io::Error::other(error.to_string()))
    })?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn request(days: Option<i64>, origins: &[&str]) -> LinkRequest {
        LinkRequest {
            expires_in_days: days,
            origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
        }
    }

    fn digest(token: &str) -> [u8; 32] {
        Sha256::digest(token).into()
    }

    #[test]
    fn a_token_is_valid_until_it_expires_or_is_revoked() {
        let mut links = Links::default();
        let origins = ["https://A.example", "http://b.example:8080"];
        let new = links
            .add("weekly", request(Some(2), &origins), "anna", NOW)
            .expect("a link");
        let other = links
            .add("weekly", request(None, &[]), "anna", NOW)
            .expect("a link");
        assert_ne!(new.token, other.token);
        assert_eq!(new.token.len(), 2 * TOKEN_BYTES);
        assert!(new.path.starts_with(&format!("/shared/{}#", new.link.id)));
        // The file does not have the token.
        let json = serde_json::to_string(&links).expect("JSON");
        assert!(!json.contains(&new.token), "{json}");
        let read: Links = serde_json::from_str(&json).expect("links");
        assert_eq!(read, links);
        let found = |links: &Links, token: &str, now| {
            links
                .with_token(&digest(token), now)
                .map(|link| link.id.clone())
        };
        let end = NOW + TimeDelta::days(2);
        let before = end - TimeDelta::seconds(1);
        assert_eq!(found(&links, &new.token, before), Some(new.link.id.clone()));
        assert_eq!(found(&links, &new.token, end), None);
        assert_eq!(found(&links, &new.link.id, NOW), None);
        assert_eq!(
            links.origins(&new.link.id, before),
            ["https://a.example", "http://b.example:8080"]
        );
        assert_eq!(links.origins(&new.link.id, end), [""; 0]);
        assert_eq!(links.of("weekly", end).len(), 1);
        assert!(links.revoke("other", &new.link.id).is_err());
        links.revoke("weekly", &new.link.id).expect("it exists");
        assert_eq!(found(&links, &new.token, NOW), None);
        assert_eq!(found(&links, &other.token, NOW), Some(other.link.id));
        assert!(links.revoke_all("weekly") && !links.revoke_all("weekly"));
        assert_eq!(found(&links, &other.token, NOW), None);
    }

    #[test]
    fn wrong_links_are_rejected_with_their_place() {
        for (request, says) in [
            (request(Some(0), &[]), "expires_in_days is 0"),
            (request(Some(366), &[]), "expires_in_days is 366"),
            (request(None, &["*"]), "origins[0] is \"*\""),
            (
                request(None, &["https://a.example", "https://*.example"]),
                "origins[1] is",
            ),
            (request(None, &["https://a.example/x"]), "origins[0] is"),
            (
                request(None, &["https://a.example; script-src *"]),
                "origins[0] is",
            ),
            (
                request(None, &["https://a.example,https://b.example"]),
                "origins[0] is",
            ),
            (request(None, &["data://x"]), "origins[0] is"),
            (request(None, &["https://a.example"; 11]), "has 11 entries"),
        ] {
            let rejected = Links::default().add("weekly", request, "anna", NOW);
            let said = rejected.expect_err(says).to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
