//! How addresses are written in messages and in the store: as text.

/// A MAC address. Use as `#[serde(with = "text::mac")]`.
pub mod mac {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use switch_core::addr::Mac;

    /// Writes it with colons.
    /// Errors: the serializer's.
    pub fn serialize<S: Serializer>(mac: &Mac, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(mac)
    }

    /// Reads it.
    /// Errors: not a MAC address.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Mac, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Has serde write types as their `Display` does and read them as their `FromStr` does.
macro_rules! as_text {
    ($($name:ty),*) => {
        $(
            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    to.collect_str(self)
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(from)?;
                    text.parse().map_err(serde::de::Error::custom)
                }
            }
        )*
    };
}

pub(crate) use as_text;
