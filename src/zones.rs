//! Reporting zones: the time zones for whose days daily states are kept.

use std::str::FromStr;

use chrono_tz::Tz;

/// Most reporting zones. Each has a state a day on disk and its users in memory, as UTC has.
const MAX_ZONES: usize = 8;

/// The reporting zones of a server, in the order of the setting. UTC always has states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones(Vec<Tz>);

impl Default for Zones {
    fn default() -> Self {
        Self(vec![Tz::UTC])
    }
}

impl Zones {
    /// All of them; the first is the default of the dashboard.
    pub fn listed(&self) -> &[Tz] {
        &self.0
    }

    /// The zones other than UTC.
    pub fn others(&self) -> Vec<Tz> {
        let others = self.0.iter().copied();
        others.filter(|&tz| tz != Tz::UTC).collect()
    }
}

impl FromStr for Zones {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let mut zones: Vec<Tz> = Vec::new();
        for name in value.split(',').map(str::trim) {
            let tz: Tz = name.parse().map_err(|_| {
                format!(
                    "{name:?} is not a time zone; allowed is a list of IANA zones such as UTC,Europe/Berlin"
                )
            })?;
            if zones.contains(&tz) {
                return Err(format!("{name} is listed twice"));
            }
            zones.push(tz);
        }
        match zones.len() {
            ..=MAX_ZONES => Ok(Self(zones)),
            count => Err(format!("{count} zones are listed; allowed are {MAX_ZONES}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_a_list_of_iana_names_and_the_first_is_the_default() {
        let zones: Zones = "Europe/Berlin, UTC,Asia/Kathmandu".parse().expect("a list");
        assert_eq!(zones.listed().first(), Some(&Tz::Europe__Berlin));
        assert_eq!(zones.others(), [Tz::Europe__Berlin, Tz::Asia__Kathmandu]);
        assert_eq!("UTC".parse(), Ok(Zones::default()));
        assert!(Zones::default().others().is_empty());
        let many = "UTC,Asia/Tokyo,Asia/Seoul,Asia/Dubai,Asia/Kabul,Asia/Dhaka,Asia/Hovd,Asia/Baku";
        assert!(many.parse::<Zones>().is_ok());
        for (wrong, says) in [
            ("", "\"\" is not a time zone"),
            ("UTC,", "\"\" is not a time zone"),
            ("Mars/Base", "\"Mars/Base\" is not a time zone"),
            ("europe/berlin", "UTC,Europe/Berlin"),
            ("UTC,Asia/Tokyo,UTC", "UTC is listed twice"),
            (&format!("{many},Asia/Aden"), "9 zones are listed"),
        ] {
            let found = wrong.parse::<Zones>();
            assert!(
                found.as_ref().is_err_and(|error| error.contains(says)),
                "{wrong}: {found:?}"
            );
        }
    }
}
