//! Settings of the clients of other products.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::str::FromStr;

use clap::Args;

use crate::sdk::{Served, Traits};

/// Options of the clients of other products.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clients of other products")]
pub struct ForeignClients {
    /// Products whose clients may send events: segment, posthog, plausible; none for no product
    #[arg(
        long,
        env = "ECHOPILOT_SDK",
        default_value = "segment,posthog,plausible",
        value_name = "LIST",
        hide_env_values = true
    )]
    pub sdk: Served,

    /// Keys of clients, comma separated: write keys, project keys, sites; any if not given
    ///
    /// They are in pages and apps, where anybody can read them: they keep out clients that are set
    /// up wrongly, and no attacker.
    #[arg(
        long,
        env = "ECHOPILOT_SDK_KEYS",
        default_value = "",
        value_name = "LIST",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub sdk_keys: Names,

    /// Mapping of their events.
    #[command(flatten)]
    pub mapping: Mapping,
}

/// Options of the mapping of events of other products, which an import has too.
#[derive(Debug, Clone, Args)]
pub struct Mapping {
    /// Names of events that are conversions, comma separated, in addition to the tracking plan
    #[arg(
        long,
        env = "ECHOPILOT_CONVERSIONS",
        default_value = "",
        value_name = "LIST",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub conversions: Names,

    /// Traits that name a person, such as e-mail, phone, name and address: drop or keep
    #[arg(
        long,
        env = "ECHOPILOT_SDK_TRAITS",
        default_value = "drop",
        value_name = "drop|keep",
        hide_possible_values = true,
        hide_env_values = true
    )]
    pub sdk_traits: Traits,
}

impl Mapping {
    /// True if the events of this name are conversions by the settings.
    pub fn has_conversion(&self, name: &str) -> bool {
        self.conversions.has(name)
    }
}

/// A list of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(BTreeSet<String>);

impl Names {
    /// True without names.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True for a name of the list.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

impl FromStr for Names {
    type Err = Infallible;

    fn from_str(list: &str) -> Result<Self, Infallible> {
        let names = list.split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdk::Product;

    #[test]
    fn products_and_names_are_lists() {
        let served: Served = "segment, plausible".parse().expect("products");
        assert!(served.has(Product::Segment) && served.has(Product::Plausible));
        assert!(!served.has(Product::PostHog));
        let none: Served = "none".parse().expect("products");
        assert!(!none.has(Product::Segment));
        for wrong in ["", "segment,", "mixpanel", "none,segment", "Segment"] {
            let message = wrong.parse::<Served>().expect_err("no product");
            assert!(
                message.contains("segment, posthog, plausible, or none"),
                "{message}"
            );
        }
        let Ok(names) = " Order Completed, signup,".parse::<Names>();
        assert!(names.has("Order Completed") && names.has("signup") && !names.has(""));
        let Ok(names) = "".parse::<Names>();
        assert!(names.is_empty());
    }
}
