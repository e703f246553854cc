package netlink

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const genericLen = 4 // struct genlmsghdr

// Generic puts a generic netlink command in front of its attributes.
func Generic(command, version uint8, attrs []byte) []byte {
	return append([]byte{command, version, 0, 0}, attrs...)
}

// ParseGeneric splits the data of a generic netlink message.
func ParseGeneric(data []byte) (command uint8, attrs []Attr, err error) {
	if len(data) < genericLen {
		return 0, nil, fmt.Errorf("%w: generic message of %d bytes", ErrMalformed, len(data))
	}
	attrs, err = ParseAttrs(data[genericLen:])
	return data[0], attrs, err
}

// Family is a generic netlink family of the running kernel.
type Family struct {
	ID     uint16
	Groups map[string]uint32 // multicast groups by name
}

// Executor sends one request and returns the replies, as Conn.Execute does.
type Executor interface {
	Execute(kind uint16, flags uint16, data []byte) ([]Message, error)
}

// LookupFamily asks the kernel for a family. The error can be tested for unix.ENOENT: the module that has it is not loaded.
func LookupFamily(c Executor, name string) (Family, error) {
	var attrs Attrs
	attrs.String(unix.CTRL_ATTR_FAMILY_NAME, name)
	replies, err := c.Execute(unix.GENL_ID_CTRL, 0, Generic(unix.CTRL_CMD_GETFAMILY, 1, attrs.Bytes()))
	if err != nil {
		return Family{}, fmt.Errorf("look up netlink family %s: %w", name, err)
	}
	for _, m := range replies {
		f, err := parseFamily(m.Data)
		if err != nil {
			return Family{}, fmt.Errorf("look up netlink family %s: %w", name, err)
		}
		if f.ID != 0 {
			return f, nil
		}
	}
	return Family{}, fmt.Errorf("look up netlink family %s: %w: no answer", name, ErrMalformed)
}

func parseFamily(data []byte) (Family, error) {
	_, attrs, err := ParseGeneric(data)
	if err != nil {
		return Family{}, err
	}
	f := Family{Groups: map[string]uint32{}}
	for _, a := range attrs {
		switch a.Type {
		case unix.CTRL_ATTR_FAMILY_ID:
			f.ID, _ = a.Uint16()
		case unix.CTRL_ATTR_MCAST_GROUPS:
			if err := parseGroups(a.Data, f.Groups); err != nil {
				return Family{}, err
			}
		}
	}
	return f, nil
}

// parseGroups reads an array of nested attributes, each with a name and a number.
func parseGroups(data []byte, groups map[string]uint32) error {
	list, err := ParseAttrs(data)
	if err != nil {
		return err
	}
	for _, item := range list {
		fields, err := ParseAttrs(item.Data)
		if err != nil {
			return err
		}
		var name string
		var id uint32
		for _, a := range fields {
			switch a.Type {
			case unix.CTRL_ATTR_MCAST_GRP_NAME:
				name = a.String()
			case unix.CTRL_ATTR_MCAST_GRP_ID:
				id, _ = a.Uint32()
			}
		}
		groups[name] = id
	}
	return nil
}
