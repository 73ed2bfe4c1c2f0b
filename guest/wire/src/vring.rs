//! The split virtqueue (VIRTIO 1.2 §2.7). All fields are little-endian.

/// Size of a descriptor, bytes: `{ le64 addr, le32 len, le16 flags, le16 next }`.
pub const DESC_BYTES: u64 = 16;
/// Offset of the ring in the available area: `{ le16 flags, le16 idx, le16 ring[size] }`.
pub const AVAIL_RING: u64 = 4;
/// Offset of the index in the available and in the used area.
pub const IDX: u64 = 2;
/// Offset of the ring in the used area: `{ le16 flags, le16 idx, { le32 id, le32 len }[size] }`.
pub const USED_RING: u64 = 4;
/// Size of a used element, bytes.
pub const USED_ELEM_BYTES: u64 = 8;

/// The descriptor continues in `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes the buffer (else it reads it).
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// In the available area's flags: the driver wants no interrupt.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In the used area's flags: the device wants no notification.
pub const USED_F_NO_NOTIFY: u16 = 1;
