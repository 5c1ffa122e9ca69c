package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"
)

// Errors of a bucket that do not pass by themselves.
var (
	// ErrDenied is the error of a request that the credentials do not allow.
	ErrDenied = errors.New("access is denied")
	// ErrNoBucket is the error of a bucket that does not exist.
	ErrNoBucket = errors.New("there is no such bucket")
	// ErrFull is the error of a bucket that takes no more.
	ErrFull = errors.New("the bucket is full")
	// ErrUnreachable is the error of a server that does not answer, or not as an S3 does.
	ErrUnreachable = errors.New("the server cannot be reached")
	// ErrRetained is the error of deleting what the bucket's object lock keeps.
	ErrRetained = errors.New("the bucket's object lock keeps it")
)

// errTooShort is the error of reading past the end of an object. Callers see io.ErrUnexpectedEOF, which is also what answers
// that broke off are read with: these must not be taken for it.
var errTooShort = errors.New("the object is too short")

// storageFull is the code of a MinIO whose disks are full.
const storageFull = "XMinioStorageFull"

// passing are S3's codes of errors that pass.
var passing = map[string]bool{
	"RequestError": true, "RequestTimeout": true, "Throttling": true, "ThrottlingException": true, "RequestLimitExceeded": true,
	"RequestThrottled": true, "InternalError": true, "SlowDown": true, "SlowDownWrite": true, "SlowDownRead": true,
	"ServiceUnavailable": true, "OperationAborted": true, "BadDigest": true, "IncompleteBody": true, "XAmzContentSHA256Mismatch": true,
	"XMinioServerNotInitialized": true,
}

// mayPass reports whether a request that failed with err is worth another try.
func mayPass(err error) bool {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrExpired), errors.Is(err, ErrTooLarge),
		errors.Is(err, errTooShort):
		return false
	}
	if r := minio.ToErrorResponse(err); r.Code != "" && r.StatusCode != 0 {
		if r.Code == storageFull {
			return false
		}
		return passing[r.Code] || r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusRequestTimeout ||
			(r.StatusCode >= 500 && r.StatusCode != http.StatusNotImplemented && r.StatusCode != http.StatusInsufficientStorage)
	}
	return !unreachable(err)
}

// unreachable reports whether err says that there is no such server, or none that can be trusted.
func unreachable(err error) bool {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	return errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &cert) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &record)
}

// explain says what is wrong, and what to do about it where that is known.
func (b *S3) explain(err error) error {
	r := minio.ToErrorResponse(err)
	wrap := func(kind error, what string) error {
		return fmt.Errorf("%s: %w: %s", b.Location, kind, what)
	}
	switch {
	case errors.Is(err, ErrExpired), errors.Is(err, ErrTooLarge):
		return err
	case errors.Is(err, errTooShort):
		return io.ErrUnexpectedEOF
	case r.StatusCode == http.StatusNotImplemented:
		return wrap(errors.ErrUnsupported, "the server does not know how to: "+r.Message)
	}
	if why := strings.ToLower(r.Message); strings.Contains(why, "object lock") || strings.Contains(why, "worm protected") {
		return wrap(ErrRetained, "it can be deleted when its retention is over")
	}
	switch r.Code {
	case minio.NoSuchKey, "NotFound":
		return ErrNoObject
	case "InvalidRange":
		return io.ErrUnexpectedEOF // past the end
	case minio.PreconditionFailed, "ConditionalRequestConflict":
		return ErrObjectExists
	case minio.NoSuchBucket:
		return wrap(ErrNoBucket, "make it first, or look for a typing error")
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return wrap(ErrDenied, "the server does not know the access key")
	case "SignatureDoesNotMatch":
		return wrap(ErrDenied, "the secret key is not the one of the access key")
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidTokenId":
		return wrap(ErrDenied, "the session token has expired, or is another one's: get new credentials")
	case "RequestTimeTooSkewed":
		return wrap(ErrDenied, "the clocks of this machine and of the server are too far apart: set the one that is off")
	case "AuthorizationHeaderMalformed", "InvalidRegion":
		return wrap(ErrDenied, "the region is another one ("+r.Message+"): give it with --region")
	case "AccessDenied", "AllAccessDisabled", "Forbidden":
		return wrap(ErrDenied, "the credentials do not allow it ("+r.Message+")")
	case "ObjectLocked", "InvalidRetentionPeriod", "WORMProtected":
		return wrap(ErrRetained, "it can be deleted when its retention is over")
	case storageFull, "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "EntityTooLarge":
		return wrap(ErrFull, "free some space there, and run the same again")
	}
	switch {
	case r.Code != "" && r.StatusCode != 0:
		return fmt.Errorf("%s: the server says %s: %s", b.Location, r.Code, r.Message)
	case errors.Is(err, errStalled):
		return wrap(ErrUnreachable, errStalled.Error())
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return wrap(ErrUnreachable, "its answers break off")
	case unreachable(err), errors.Is(err, syscall.ECONNREFUSED), errors.As(err, new(net.Error)):
		return fmt.Errorf("%s: %w: %w", b.Location, ErrUnreachable, cause(err))
	}
	return fmt.Errorf("%s: %w", b.Location, err)
}

// cause returns what an error of net/http is about, without the URL, which is long and says nothing more.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
