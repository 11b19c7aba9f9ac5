package config

import (
	"net/url"
	"strings"
)

const (
	defaultFluentdPort = "24224"
	defaultServiceName = "akvvm_service"
)

// logging reads loggingSettings. Whatever is wrong is a warning: certificates never wait for a log collector.
func (r reader) logging(n *node) Logging {
	r.severity = Warning
	if !r.isObject(n, keyLogging, `write {"logger": "fluentd", "endpoint": "tcp://localhost:24224"}`) {
		return Logging{}
	}
	o := r.object(n, keyLogging, fieldsOf[loggingFields](r.report))
	defer o.done()
	l := Logging{Format: "forward", ServiceName: defaultServiceName}
	if n := o.get("format"); n != nil {
		r.oneOf(n, o.join("format"), "format", "forward")
	}
	if n := o.get("servicename"); n != nil {
		if s, ok := r.text(n, o.join("servicename")); ok && s != "" {
			l.ServiceName = s
		}
	}
	if n := o.get("endpoint"); n != nil {
		l.Endpoint = r.collector(n, o.join("endpoint"))
	}
	n = o.get("logger")
	if n == nil {
		return Logging{}
	}
	var ok bool
	if l.Logger, ok = r.oneOf(n, o.join("logger"), "logger", "fluentd"); !ok {
		return Logging{}
	}
	if o.get("endpoint") == nil {
		r.fault(o.node.at(), keyLogging+`: "endpoint" is missing; logs are not sent`, `add "endpoint": "tcp://localhost:24224"`)
	}
	if l.Endpoint == "" {
		return Logging{}
	}
	return l
}

// collector takes tcp://host:port or unix:///path.
func (r reader) collector(n *node, path string) string {
	s, ok := r.text(n, path)
	if !ok {
		return ""
	}
	u, err := url.Parse(strings.TrimSpace(s))
	switch {
	case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "":
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") && u.Path != "/":
		return "unix://" + u.Path
	case u.Scheme == "tcp" && u.Hostname() != "" && strings.Trim(u.Path, "/") == "":
		if u.Port() == "" {
			return "tcp://" + strings.TrimSuffix(u.Host, ":") + ":" + defaultFluentdPort
		}
		if validPort(u.Port()) {
			return "tcp://" + u.Host
		}
	}
	r.fault(n.at(), path+": "+quote(s)+" is not the address of a collector; logs are not sent", "write tcp://localhost:24224 or unix:///path")
	return ""
}
