//! The macro that makes the registry: a list of entries becomes an enum and what is known of each.

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $variant:ident { name: $name:literal, id: $id:literal, source: $source:literal, mechanism: $mechanism:literal, effect: $effect:ident,
        steps: [$($step:literal),+ $(,)?], fix: $fix:literal $(, guest: $guest:expr)? },)*) => {
        /// A defect that can be switched on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Fault {
            /// Every fault, in the order of the registry.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)*];

            /// Returns the name that scenarios and the command line use.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }

            /// Returns the catalogue's id, or "-".
            pub fn id(self) -> &'static str {
                match self { $(Fault::$variant => $id,)* }
            }

            /// Returns where the defect was real.
            pub fn source(self) -> &'static str {
                match self { $(Fault::$variant => $source,)* }
            }

            /// Returns what it is, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Fault::$variant => concat!($($doc),*).trim().trim_end_matches('.'),)* }
            }

            /// Returns what goes wrong.
            pub fn mechanism(self) -> &'static str {
                match self { $(Fault::$variant => $mechanism,)* }
            }

            /// Returns the bit of `wire::switch::fault` that switches it on in the guest; `None`: it is the host's.
            pub fn guest_bit(self) -> Option<u64> {
                let bits: &[u64] = match self { $(Fault::$variant => &[$($guest)?],)* };
                bits.first().copied()
            }

            /// Returns the smallest interleaving that shows it, a line for each step.
            pub fn steps(self) -> &'static [&'static str] {
                match self { $(Fault::$variant => &[$($step),+],)* }
            }

            /// Returns how it was mended.
            pub fn fix(self) -> &'static str {
                match self { $(Fault::$variant => $fix,)* }
            }

            /// Returns what a user sees.
            pub fn effect(self) -> Effect {
                match self { $(Fault::$variant => Effect::$effect,)* }
            }
        }
    };
}
