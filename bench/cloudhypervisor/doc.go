// Package cloudhypervisor plays Cloud Hypervisor's part in handing guests over: it sends one as vm.send-migration with local=on does, and receives
// one as vm.receive-migration does, with memory that is filled on demand through userfaultfd or not. It is for tests, where none is at hand.
//
// Start with [NewVM] and [VM.Send], and with [Listen] and [Receiver.Receive]. Every byte is written and read as Cloud Hypervisor 53 has it
// (vm-migration/src/protocol.rs, vmm/src/lib.rs, vmm/src/uffd.rs and vmm/src/memory_manager.rs there), without the code that is to be tried.
package cloudhypervisor
