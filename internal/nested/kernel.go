package nested

import "encoding/binary"

// The header of an x86 kernel, Linux Documentation/arch/x86/boot.rst.
const (
	kernelMagic   = 0x202
	kernelHeader  = 0x250  // up to the fields that are needed
	kernelVersion = 0x0208 // of the protocol, the first one with a payload's place
	sector        = 512
)

func isKernel(b []byte) bool {
	return len(b) >= kernelHeader && b[0x1fe] == 0x55 && b[0x1ff] == 0xaa && string(b[kernelMagic:kernelMagic+4]) == "HdrS" &&
		le16(b[0x206:]) >= kernelVersion
}

// kernelPayload returns where the compressed kernel begins and ends in the bzImage b. With xz, the end is behind the four bytes of the
// content's length that the kernel's build appends.
func kernelPayload(b []byte) (start, end int, ok bool) {
	setup := int64(b[0x1f1])
	if setup == 0 {
		setup = 4
	}
	offset, length := binary.LittleEndian.Uint32(b[0x248:]), binary.LittleEndian.Uint32(b[0x24c:])
	from := (setup+1)*sector + int64(offset) // behind the boot sector and the setup code
	to := from + int64(length)
	return int(from), int(to), to <= int64(len(b))
}

// kernel opens the payload of a bzImage if it is xz or gzip.
func (f *finder) kernel() {
	start, end, ok := kernelPayload(f.data)
	if !ok {
		return
	}
	f.data = f.data[:end] // offsets stay those of the file
	switch {
	case isXZ(f.data[start:]):
		f.xz(start)
	case isGzip(f.data[start:]):
		f.gzip(start)
	}
}
