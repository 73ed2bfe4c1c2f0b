//! Typed fields of structures that live at guest addresses.
//!
//! Driver state is reached from interrupts and from several vCPUs at once, as in Linux, where it is plain memory. So it is plain memory
//! here: a structure is its address, `record!` gives it one method for each field, and a [`Field`] is one load or one store.

use core::marker::PhantomData;

use crate::arch;

/// A field of type `T` at an address.
#[derive(Debug)]
pub struct Field<T> {
    addr: u64,
    of: PhantomData<T>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> Field<T> {
    /// The field at `addr`.
    pub fn at(addr: u64) -> Self {
        Field { addr, of: PhantomData }
    }

    /// Where the field lies.
    pub fn addr(self) -> u64 {
        self.addr
    }
}

impl<T, const N: usize> Field<[T; N]> {
    /// The element `index` of an array.
    pub fn element(self, index: usize) -> Field<T> {
        assert!(index < N, "index outside the array");
        Field::at(self.addr + (index * size_of::<T>()) as u64)
    }
}

macro_rules! word {
    ($ty:ty, $read:ident, $write:ident) => {
        impl Field<$ty> {
            /// Loads the field, once.
            pub fn get(self) -> $ty {
                arch::$read(self.addr)
            }

            /// Stores the field, once.
            pub fn set(self, value: $ty) {
                arch::$write(self.addr, value);
            }
        }
    };
}
word!(u8, read8, write8);
word!(u16, read16, write16);
word!(u32, read32, write32);
word!(u64, read64, write64);

/// Defines a structure by its address: a C layout, and a method for each field.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(u64);

        const _: () = {
            #[repr(C)]
            struct Layout { $($field: $ty,)* }

            impl $name {
                /// Size of the structure, bytes.
                pub const BYTES: u64 = size_of::<Layout>() as u64;

                /// The structure at `addr`.
                pub fn at(addr: u64) -> Self {
                    assert!(addr != 0 && addr & 7 == 0, "no structure lies at this address");
                    $name(addr)
                }

                /// Where the structure lies.
                pub fn addr(self) -> u64 {
                    self.0
                }

                $($(#[$field_meta])*
                pub fn $field(self) -> $crate::virtio::field::Field<$ty> {
                    $crate::virtio::field::Field::at(self.0 + core::mem::offset_of!(Layout, $field) as u64)
                })*
            }
        };
    };
}
pub(crate) use record;
