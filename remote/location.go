package remote

import (
	"fmt"
	"net/url"
	"path"
	"strings"
)

// Location is a prefix of a bucket.
type Location struct {
	Bucket string
	Prefix string // "" or slash-terminated
}

// ParseLocation parses s3://bucket or s3://bucket/prefix.
func ParseLocation(s string) (Location, error) {
	rest, ok := strings.CutPrefix(s, "s3://")
	bucket, prefix, _ := strings.Cut(rest, "/")
	if !ok || bucket == "" || strings.ContainsAny(rest, "?#") {
		return Location{}, fmt.Errorf("remote: %q is not of the form s3://bucket/prefix", s)
	}
	if prefix != "" {
		prefix = strings.TrimPrefix(path.Clean("/"+prefix), "/")
	}
	if prefix != "" {
		prefix += "/"
	}
	return Location{bucket, prefix}, nil
}

// String returns the location as ParseLocation takes it.
func (l Location) String() string {
	return "s3://" + strings.TrimSuffix(l.Bucket+"/"+l.Prefix, "/")
}

// parseEndpoint returns the host of an endpoint's URL and whether it is reached by TLS.
func parseEndpoint(s string) (host string, secure bool, err error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", false, fmt.Errorf("remote: %q is no endpoint such as https://s3.example.com or http://127.0.0.1:9000", s)
	}
	if u.User != nil {
		return "", false, fmt.Errorf("remote: an endpoint has no user and no password in it: give credentials by the environment or a file")
	}
	return u.Host, u.Scheme == "https", nil
}
