package proxy

import (
	"errors"
	"strconv"
	"strings"

	"github.com/tidwall/redcon"

	"nearside/proxy/origin"
)

// The replies that nearside gives itself, in one place. Where Redis has a text
// for the case, it is Redis's.
const (
	replyOK     = "+OK\r\n"
	replyPong   = "+PONG\r\n"
	replyQueued = "+QUEUED\r\n"

	errNoAuth       = "NOAUTH Authentication required."
	errNoProto      = "NOPROTO unsupported protocol version"
	errProtoNumber  = "ERR Protocol version is not an integer or out of range"
	errSyntax       = "ERR syntax error"
	errNotInteger   = "ERR value is not an integer or out of range"
	errIntRange     = "ERR value is out of range, value must between -2147483648 and 2147483647"
	errDBIndex      = "ERR DB index is out of range"
	errMaxClients   = "ERR max number of clients reached"
	errClientName   = "ERR Client names cannot contain spaces, newlines or special characters."
	errLongName     = "ERR nearside: client names and library names longer than 4096 bytes are not supported"
	errExecAbort    = "EXECABORT Transaction discarded because of previous errors."
	errExecLost     = "EXECABORT Transaction discarded because the connection to Redis was lost."
	errNestedMulti  = "ERR MULTI calls can not be nested"
	errWatchInMulti = "ERR WATCH inside MULTI is not allowed"
	errExecNoMulti  = "ERR EXEC without MULTI"
	errDiscardNo    = "ERR DISCARD without MULTI"
	errNeedless     = "DENIED nearside is running in protected mode, and Redis's default user needs no password: give it one, use another user, or set protected_mode: false"
	errLargeReply   = "ERR nearside: the reply does not fit into what is left of the buffers budget; the command has been executed. Ask for less or raise buffers"
	errBusyBuffers  = "ERR nearside: the request does not fit into what is left of the buffers budget; send smaller requests or raise buffers"
)

// appendError appends an error reply; text has no '-' and no line breaks of its own.
func appendError(b []byte, text string) []byte {
	b = append(b, '-')
	for i := range len(text) {
		if c := text[i]; c == '\r' || c == '\n' {
			b = append(b, ' ')
		} else {
			b = append(b, c)
		}
	}
	return append(b, "\r\n"...)
}

func errArity(name string) string {
	return "ERR wrong number of arguments for '" + strings.ToLower(name) + "' command"
}

func errUnknownSub(container, sub string) string {
	if len(sub) > 128 {
		sub = sub[:128]
	}
	return "ERR unknown subcommand '" + sub + "'. Try " + strings.ToUpper(container) + " HELP."
}

// originError says in Redis's form what became of a command that the origin
// did not answer. sent tells whether it may have been executed.
func (p *Proxy) originError(err error) string {
	var refused *origin.RefusedError
	switch {
	case errors.As(err, &refused):
		return strings.TrimPrefix(refused.Line, "-")
	case errors.Is(err, origin.ErrTooLarge):
		return errLargeReply
	case errors.Is(err, origin.ErrLost):
		return "ERR nearside: the connection to Redis at " + p.origin.Addr() + " was lost before the reply; the command may or may not have been executed"
	case errors.Is(err, origin.ErrTimeout):
		return "ERR nearside: Redis at " + p.origin.Addr() + " has not answered for origin_timeout (" + p.cfg.OriginTimeout.String() + "); the command may or may not have been executed"
	case errors.Is(err, origin.ErrTooManyPinned):
		return "ERR nearside: max_pinned (" + strconv.Itoa(p.descriptors.pinned) + ") connections to Redis are in use by transactions, blocking commands, subscriptions, and commands that nearside does not know"
	case errors.Is(err, origin.ErrTooManyConns):
		return "ERR nearside: no file descriptor is left for another connection to Redis: raise ulimit -n (LimitNOFILE= in systemd)"
	}
	return "ERR nearside: Redis at " + p.origin.Addr() + " cannot be reached: " + err.Error()
}

// appendNull appends the null of the protocol version.
func appendNull(b []byte, proto int) []byte {
	if proto == 3 {
		return append(b, "_\r\n"...)
	}
	return redcon.AppendNull(b)
}

// appendMap starts a map of n pairs: %n in RESP3, an array of 2n in RESP2.
func appendMap(b []byte, proto, n int) []byte {
	if proto == 3 {
		b = append(b, '%')
		b = strconv.AppendInt(b, int64(n), 10)
		return append(b, "\r\n"...)
	}
	return redcon.AppendArray(b, 2*n)
}

// textReply encodes a text: a verbatim string in RESP3, a bulk string in RESP2, as INFO does.
func textReply(proto int, text string) []byte {
	if proto != 3 {
		return redcon.AppendBulkString(nil, text)
	}
	b := append([]byte(nil), '=')
	b = strconv.AppendInt(b, int64(len(text)+4), 10)
	b = append(b, "\r\ntxt:"...)
	b = append(b, text...)
	return append(b, "\r\n"...)
}

// isError tells whether a reply is an error, in either form, or none at all.
func isError(b []byte) bool { return len(b) == 0 || b[0] == '-' || b[0] == '!' }
