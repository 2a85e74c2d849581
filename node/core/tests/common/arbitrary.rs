//! Draws a value of any type that can be read: ids that may be there, numbers at the ends of their range, every variant.
//!
//! It is a source for serde, so that a new field or a new variant of a command is drawn without a word here.

use matins_core::id::Digest;
use serde::Deserialize;
use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

type Error = serde::de::value::Error;

/// Names that the scripts use, and some that nobody uses.
const WORDS: &[&str] = &[
    "test",
    "w",
    "x",
    "y",
    "z",
    "a",
    "b",
    "c",
    "d",
    "tick",
    "db",
    "",
    "{}",
    "{\"x\":1}",
    "null",
    "boot",
    "é\u{0}\u{10ffff}",
];
/// Deeper than anything that is drawn on purpose.
const DEPTH_MAX: u32 = 24;

/// Where values come from.
pub(crate) struct Source {
    seed: u64,
    depth: u32,
    /// About what time it is, in milliseconds.
    pub(crate) now: i64,
    /// Digests that the state knows.
    pub(crate) digests: Vec<Digest>,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, depth: 0, now: 0, digests: Vec::new() }
    }

    /// A value; some types take more than one try, since not every number is an id.
    pub(crate) fn draw<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        (0..50).find_map(|_| {
            self.depth = 0;
            T::deserialize(&mut *self).ok()
        })
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn unsigned(&mut self) -> u64 {
        match self.below(20) {
            0..12 => self.below(6),
            12..16 => self.below(200),
            16 => u64::MAX,
            17 => u64::MAX - self.below(1_000),
            18 => u64::from(u32::MAX),
            _ => 1 << self.below(64),
        }
    }

    /// Most signed numbers are instants.
    fn signed(&mut self) -> i64 {
        match self.below(20) {
            0..8 => self.now - self.below(900_000) as i64,
            8..14 => self.now.saturating_add(self.below(900_000) as i64),
            14 => i64::MAX,
            15 => i64::MIN,
            16 => i64::MAX - self.below(10_000) as i64,
            17 => 0,
            _ => self.below(2_000_000) as i64 - 1_000_000,
        }
    }

    fn length(&mut self) -> usize {
        if self.depth > DEPTH_MAX / 2 { 0 } else { self.below(4) as usize }
    }

    fn deeper(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Error::custom("too deep")) } else { Ok(()) }
    }
}

/// So many values of a sequence are still to come.
struct Items<'a> {
    source: &'a mut Source,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let depth = self.source.depth;
        let value = seed.deserialize(&mut *self.source)?;
        self.source.depth = depth;
        Ok(Some(value))
    }
}

impl<'de> MapAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.source)
    }
}

impl<'de> EnumAccess<'de> for Items<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let number: U32Deserializer<Error> = (self.left as u32).into_deserializer();
        Ok((seed.deserialize(number)?, self))
    }
}

impl<'de> VariantAccess<'de> for Items<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.source)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self.source, left: len })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self.source, left: fields.len() })
    }
}

/// Numbers of each width, cut from the same draw.
macro_rules! draw_numbers {
    ($($read:ident $visit:ident $draw:ident $number:ty,)+) => {
        $(fn $read<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let drawn = self.$draw();
            // What does not fit is the largest that does.
            visitor.$visit(<$number>::try_from(drawn).unwrap_or(<$number>::MAX))
        })+
    };
}

impl<'de> Deserializer<'de> for &mut Source {
    type Error = Error;

    draw_numbers! {
        deserialize_u8 visit_u8 unsigned u8,
        deserialize_u16 visit_u16 unsigned u16,
        deserialize_u32 visit_u32 unsigned u32,
        deserialize_u64 visit_u64 unsigned u64,
        deserialize_i8 visit_i8 signed i8,
        deserialize_i16 visit_i16 signed i16,
        deserialize_i32 visit_i32 signed i32,
        deserialize_i64 visit_i64 signed i64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("the type does not say what it is"))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.below(2) == 1)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(WORDS[self.below(WORDS.len() as u64) as usize])
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.depth > DEPTH_MAX / 2 || self.below(2) == 0 {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deeper()?;
        if name == "Digest" && !self.digests.is_empty() && self.below(4) > 0 {
            let at = self.below(self.digests.len() as u64) as usize;
            let bytes = self.digests[at].0.to_vec();
            return visitor.visit_newtype_struct(serde::de::value::SeqDeserializer::new(bytes.into_iter()));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deeper()?;
        let left = self.length();
        visitor.visit_seq(Items { source: self, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deeper()?;
        visitor.visit_seq(Items { source: self, left: len })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deeper()?;
        let left = self.length();
        visitor.visit_map(Items { source: self, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deeper()?;
        let left = self.below(variants.len() as u64) as usize;
        visitor.visit_enum(Items { source: self, left })
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! { i128 u128 f32 f64 char bytes byte_buf unit_struct identifier ignored_any }
}
