package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

var (
	errAborted = errors.New("client ended the negotiation")
	errNoSuch  = errors.New("client asked for an export that is not to be had")
)

// negotiate speaks the handshake and returns the export that the client chose, which the caller closes. Its time is limited
// by Config.HandshakeTimeout.
func (ss *session) negotiate(ctx context.Context) (Export, error) {
	if err := ss.conn.SetDeadline(time.Now().Add(ss.srv.cfg.HandshakeTimeout)); err != nil {
		return nil, err
	}
	if _, err := ss.conn.Write(appendGreeting(make([]byte, 0, greetingSize))); err != nil {
		return nil, fmt.Errorf("send greeting: %w", err)
	}
	var b [clientFlagsSize]byte
	if err := ss.in.readFull(ss.conn, b[:]); err != nil {
		return nil, fmt.Errorf("read client flags: %w", err)
	}
	flags := binary.BigEndian.Uint32(b[:])
	// proto.md, "Client flags": the server MUST drop the connection if the client sets an unknown flag.
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return nil, fmt.Errorf("client flags %#x: %w", flags, errProtocol)
	}
	n := haggler{session: ss, noZeroes: flags&flagNoZeroes != 0}
	for range maxOptions {
		if err := n.next(); err != nil {
			return nil, err
		}
		export, err := n.answer(ctx)
		if export != nil || err != nil {
			return export, err
		}
	}
	return nil, fmt.Errorf("more than %d options: %w", maxOptions, errProtocol)
}

// haggler answers the options of one connection.
type haggler struct {
	*session
	noZeroes bool
	option   option
	data     []byte
	tooBig   bool // data was too long and is not kept
}

// next reads one option.
func (n *haggler) next() error {
	var b [optionHeaderSize]byte
	if err := n.in.readFull(n.conn, b[:]); err != nil {
		return fmt.Errorf("read option: %w", err)
	}
	head, err := parseOptionHeader(&b)
	if err != nil {
		return err
	}
	n.option, n.data, n.tooBig = head.option, nil, head.length > maxOptionData
	switch {
	case head.length > maxOptionSkip:
		return fmt.Errorf("option %d has %d bytes: %w", head.option, head.length, errProtocol)
	case n.tooBig:
		return n.skip(int(head.length))
	case head.length > 0:
		n.data = make([]byte, head.length)
		if err := n.in.readFull(n.conn, n.data); err != nil {
			return fmt.Errorf("read data of option %d: %w", head.option, err)
		}
	}
	return nil
}

func (n *haggler) skip(length int) error {
	var b [256]byte
	for length > 0 {
		part := b[:min(length, len(b))]
		if err := n.in.readFull(n.conn, part); err != nil {
			return fmt.Errorf("skip data of option %d: %w", n.option, err)
		}
		length -= len(part)
	}
	return nil
}

// answer answers the option. It returns an export when the transmission phase begins, and an error when the connection is to end.
func (n *haggler) answer(ctx context.Context) (Export, error) {
	switch {
	case n.option == optExportName:
		return n.exportName(ctx)
	case n.option == optAbort:
		// proto.md, NBD_OPT_ABORT: the server MUST reply, and be content if the client does not wait for it.
		_ = n.send(appendOptionReply(nil, n.option, replyAck, 0))
		return nil, errAborted
	case n.scope.draining.Load():
		return nil, n.refuse(replyErrShutdown, "the server is shutting down")
	case n.tooBig:
		return nil, n.refuse(replyErrTooBig, "option too long")
	}
	switch n.option {
	case optList:
		return nil, n.list(ctx)
	case optInfo, optGo:
		return n.info(ctx)
	}
	return nil, n.refuse(replyErrUnsup, "")
}

// exportName obeys NBD_OPT_EXPORT_NAME, which knows no error replies: if it can't be satisfied the server MUST end the session.
func (n *haggler) exportName(ctx context.Context) (Export, error) {
	if len(n.data) > maxString || n.tooBig {
		return nil, fmt.Errorf("export name of more than %d bytes: %w", maxString, errProtocol)
	}
	export, err := n.openExport(ctx, string(n.data))
	if err != nil {
		return nil, err
	}
	if err := n.send(appendExportName(nil, export.Info(), n.noZeroes)); err != nil {
		_ = export.Close()
		return nil, err
	}
	return export, nil
}

func (n *haggler) list(ctx context.Context) error {
	if len(n.data) != 0 {
		return n.refuse(replyErrInvalid, "NBD_OPT_LIST has no data")
	}
	const flushAt = 4096
	var b []byte
	for _, e := range n.srv.cfg.Exports.List(ctx) {
		if len(e.Name) > maxString || len(e.Description) > maxString {
			continue
		}
		if b = appendServer(b, e); len(b) >= flushAt {
			if err := n.send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return n.send(appendOptionReply(b, n.option, replyAck, 0))
}

// info obeys NBD_OPT_INFO and NBD_OPT_GO, which differ only in what follows.
func (n *haggler) info(ctx context.Context) (Export, error) {
	req, err := parseInfoRequest(n.data)
	if err != nil {
		return nil, n.refuse(replyErrInvalid, "malformed request")
	}
	export, err := n.openExport(ctx, req.name)
	if errors.Is(err, errNoSuch) {
		return nil, n.refuse(replyErrUnknown, "export is not available here")
	}
	if err != nil {
		return nil, err
	}
	b := appendInfo(nil, n.option, req, export.Info())
	b = appendOptionReply(b, n.option, replyAck, 0)
	if err := n.send(b); err != nil {
		_ = export.Close()
		return nil, err
	}
	if n.option == optGo {
		return export, nil
	}
	return nil, export.Close()
}

// openExport opens an export. All that can go wrong is errNoSuch for the client; what is our own fault goes to the log.
func (n *haggler) openExport(ctx context.Context, name string) (Export, error) {
	export, err := n.srv.cfg.Exports.Open(ctx, name)
	if err == nil && export.Info().Size < 0 {
		err = errors.Join(fmt.Errorf("export has a size of %d bytes", export.Info().Size), export.Close())
	}
	if err == nil {
		return export, nil
	}
	if !errors.Is(err, ErrUnknownExport) {
		n.srv.log.Error("opening an export did not work", "addr", n.remote, "export", name, "err", err)
	}
	return nil, fmt.Errorf("%w: %q", errNoSuch, name)
}

func (n *haggler) refuse(r optionReply, text string) error {
	return n.send(appendOptionText(nil, n.option, r, text))
}

func (n *haggler) send(b []byte) error {
	if _, err := n.conn.Write(b); err != nil {
		return fmt.Errorf("answer option %d: %w", n.option, err)
	}
	return nil
}

// failureOf sorts the errors of negotiate for the metric. A client that has asked and leaves is no failure.
func failureOf(err error) failure {
	switch {
	case errors.Is(err, errAborted):
		return failedNot
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failedTimeout
	case errors.Is(err, errProtocol):
		return failedProtocol
	case errors.Is(err, errNoSuch):
		return failedUnknown
	}
	return failedClosed
}
