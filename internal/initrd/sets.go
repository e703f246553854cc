package initrd

import (
	"slices"
	"strings"
)

// required are the drivers between the network and the root file system.
var required = []string{"nbd", "squashfs", "overlay"}

// always are in both sets: the way to the root file system, verity with the fast hashes, virtual machines, and USB for adapters and
// for the keyboard of the rescue shell. A name that a kernel does not have is no error: it may be built in, or of another processor.
var always = []string{
	"nbd", "squashfs", "overlay", "dm_mod", "dm_verity", "loop", "efivarfs",
	"sha256_generic", "sha256_ssse3", "sha256_arm64", "sha2_ce", "sha256_ce",
	"virtio_pci", "virtio_mmio", "virtio_net", "vmxnet3",
	"xhci_pci", "xhci_plat_hcd", "ehci_pci", "ehci_platform", "ohci_pci", "ohci_platform", "uhci_hcd", "usbhid", "hid_generic",
}

// schoolAdapters are the network adapters found in PCs and laptops of schools, and the drivers of the chips behind them that the
// kernel would otherwise ask modprobe for.
var schoolAdapters = []string{
	"e1000", "e1000e", "igb", "igc", "r8169", "tg3", "bnx2", "atl1", "atl1c", "atl1e", "atl2", "alx", "sky2", "skge", "forcedeth",
	"8139too", "8139cp", "r8152", "r8153_ecm", "asix", "ax88179_178a", "cdc_ether", "cdc_ncm",
	"realtek", "broadcom", "ax88796b", "smsc",
}

// fullDirs are whole directories of drivers: every Ethernet adapter and the chips behind it.
var fullDirs = []string{
	"kernel/drivers/net/ethernet/", "kernel/drivers/net/phy/", "kernel/drivers/net/mdio/", "kernel/drivers/net/pcs/",
}

// fullNames are further modules of the full set: adapters of hypervisors and on USB (no modems), and the file systems that a policy may
// need before the root file system is there. What is needed later comes from the image itself.
var fullNames = []string{
	"hv_netvsc", "hv_vmbus", "xen_netfront",
	"aqc111", "asix", "ax88179_178a", "catc", "cdc_eem", "cdc_ether", "cdc_ncm", "cdc_subset", "ch9200", "dm9601", "int51x1", "kaweth", "lan78xx",
	"mcs7830", "net1080", "pegasus", "r8152", "r8153_ecm", "rndis_host", "rtl8150", "smsc75xx", "smsc95xx", "sr9700", "sr9800",
	"ext4", "vfat", "nls_ascii", "nls_cp437", "nls_iso8859_1", "nls_utf8", "isofs", "nfs", "nfsv3", "nfsv4",
	"crc32c_generic", "crc32c_intel", "crc32c_arm64", "crc32_pclmul",
}

// inSet tells whether a module belongs to the set by itself.
func inSet(set Set, m *module) bool {
	if slices.Contains(always, m.name) {
		return true
	}
	if set == School {
		return slices.Contains(schoolAdapters, m.name)
	}
	return slices.Contains(fullNames, m.name) || slices.ContainsFunc(fullDirs, func(dir string) bool { return strings.HasPrefix(m.file, dir) })
}
