//! What faults do to users.

/// What a fault does to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A write does not arrive.
    Loss,
    /// More is sent than needed.
    OverSend,
    /// The guest does not get memory back.
    Leak,
    /// The guest dies.
    GuestCrash,
    /// The VMM dies.
    HostCrash,
    /// A rule is broken that costs nobody a page.
    Rule,
    /// Somebody waits for ever.
    Stall,
    /// Some wait for each other for ever.
    Deadlock,
    /// A number that a user or a policy goes by is wrong.
    WrongStatistics,
}

impl Effect {
    /// Returns the effect's name.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Loss => "loss",
            Effect::OverSend => "over-send",
            Effect::Leak => "leak",
            Effect::GuestCrash => "guest crash",
            Effect::HostCrash => "host crash",
            Effect::Rule => "rule",
            Effect::Stall => "stall",
            Effect::Deadlock => "deadlock",
            Effect::WrongStatistics => "wrong statistics",
        }
    }
}
