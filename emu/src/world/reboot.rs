//! The guest boots anew: what the machine's reset makes of vCPUs and memory, and what ends with the kernel that was.
//!
//! QEMU: target/i386/cpu.c x86_cpu_reset_hold(); hw/core/loader.c rom_reset(). Memory keeps what it holds but for what the firmware puts there, which is
//! written as a device writes, by DMA: the kernel's image, its boot information, and the first MiB, which a kernel takes for zeros. The user's tasks start
//! anew, and write values that none wrote before; operations that were given to a task and not performed are forgotten.

use std::sync::Arc;

use host::event::{Actor, Event};
use host::fault::Fault;
use host::vmm::FIRMWARE;
use wire::platform::PAGE_SIZE;

use crate::scenario::model::Target;
use crate::world::World;
use crate::world::guest::Vcpu;
use crate::world::inject::InjectionState;
use crate::world::rules::GuestRules;

impl World {
    /// The devices are reset: now vCPUs and memory are.
    pub(super) fn boot_anew(&mut self) {
        self.state.resets += 1;
        self.reset_vcpus();
        (self.state.ready, self.state.works, self.state.inject_stub) = (false, 0, 0);
        self.state.backlog.iter_mut().for_each(|operations| operations.clear());
        if self.rules.is_some() {
            let scenario = Arc::clone(&self.scenario);
            self.rules = Some(Box::new(GuestRules::new(&scenario, self.ram.pages())));
        }
        for pfn in FIRMWARE.pages() {
            self.ram.write_unlogged(pfn.address(), &[0; PAGE_SIZE as usize]);
        }
        self.machine.reset(self.image);
        self.write_boot_info();
        self.write_tasks();
        self.emit(Actor::Dma, Event::DmaWrite { range: FIRMWARE });
        if !self.faults.on(Fault::RomResetUnmarked) {
            self.mark_dma(FIRMWARE, Target::Buffer);
        }
        self.wrote_range(FIRMWARE, Actor::Dma);
        self.tell_marks(Actor::Dma, FIRMWARE);
        // All memory may be another one, and so are all registers.
        self.used.changed = u64::MAX;
    }

    /// Each vCPU forgets what it was at. A store that was put into one and not made yet is put in again once the guest is up.
    fn reset_vcpus(&mut self) {
        for cpu in 0..self.state.vcpus.len() {
            let Vcpu { frame, insns, stop_at_insns, .. } = std::mem::replace(&mut self.state.vcpus[cpu], Vcpu::new());
            (self.state.vcpus[cpu].insns, self.state.vcpus[cpu].stop_at_insns) = (insns, stop_at_insns);
            if let Some(frame) = frame {
                self.state.injections[frame.injection] = InjectionState::Armed { at_ns: self.state.now_ns, at_insns: None };
            }
        }
    }
}
