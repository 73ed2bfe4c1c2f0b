//! What an operator, or the machine itself, does to the tracking of writes.

/// A command about tracking; it takes the BQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackingCommand {
    /// The guest changes who sees the memory at 0xC0000 (PAM registers; a reboot does so, too): the memory slot that holds it is deleted and created.
    TogglePam,
    /// The second half of it, where a fault parts the two: comes by itself behind the first.
    ReplaceSlot,
    /// `calc-dirty-rate` starts to measure.
    DirtyRateStart,
    /// Its time is over.
    DirtyRateStop,
    /// `device_add` of a vCPU: it is on the list of vCPUs, and the main loop waits for its thread without the BQL.
    PlugVcpu,
    /// The plugged vCPU's thread is ready; the guest never brings it up. Comes by itself behind [`TrackingCommand::PlugVcpu`].
    VcpuCreated,
    /// The kernel refuses the next GET; not a command, but it comes the same way.
    FailGet,
    /// `set-vcpu-dirty-limit`.
    SetLimit {
        /// Whose; `None`: everybody's.
        cpu: Option<u8>,
        /// MB/s; 0 lifts it.
        rate: u32,
    },
    /// `cancel-vcpu-dirty-limit`, for all vCPUs.
    CancelLimit,
}

impl TrackingCommand {
    /// What can be given in a word.
    pub const ALL: &'static [TrackingCommand] = &[
        TrackingCommand::TogglePam,
        TrackingCommand::DirtyRateStart,
        TrackingCommand::DirtyRateStop,
        TrackingCommand::PlugVcpu,
        TrackingCommand::FailGet,
        TrackingCommand::CancelLimit,
    ];

    /// Returns the command's name.
    pub fn name(self) -> &'static str {
        match self {
            TrackingCommand::TogglePam => "toggle-pam",
            TrackingCommand::ReplaceSlot => "replace-slot",
            TrackingCommand::DirtyRateStart => "dirty-rate-start",
            TrackingCommand::DirtyRateStop => "dirty-rate-stop",
            TrackingCommand::PlugVcpu => "plug-vcpu",
            TrackingCommand::VcpuCreated => "vcpu-created",
            TrackingCommand::FailGet => "fail-get",
            TrackingCommand::SetLimit { .. } => "set-vcpu-dirty-limit",
            TrackingCommand::CancelLimit => "cancel-vcpu-dirty-limit",
        }
    }

    /// Returns the command of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|command| command.name() == name)
    }
}
