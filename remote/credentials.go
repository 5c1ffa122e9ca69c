package remote

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// ErrNoCredentials is the error of a bucket to which nobody said how to log in.
var ErrNoCredentials = errors.New("there are no credentials")

// metadataTimeout is how long to wait for a machine's own metadata service, which most machines do not have.
const metadataTimeout = 2 * time.Second

// findCredentials returns where credentials come from: "env", "profile:NAME" or "file:PATH" of a
// shared credentials file, "iam" for the role of the instance or container, "anonymous", or "" for
// the first of env, the shared file and iam that has some.
func findCredentials(choice string) (*credentials.Credentials, error) {
	env := &credentials.EnvAWS{}
	file := &credentials.FileAWSCredentials{}
	iam := &credentials.IAM{Client: &http.Client{Timeout: metadataTimeout}}
	kind, name, _ := strings.Cut(choice, ":")
	var providers []credentials.Provider
	switch {
	case choice == "":
		providers = []credentials.Provider{env, file, iam}
	case choice == "env":
		providers = []credentials.Provider{env}
	case choice == "iam":
		providers = []credentials.Provider{iam}
	case choice == "anonymous":
		return credentials.New(&credentials.Static{Value: credentials.Value{SignerType: credentials.SignatureAnonymous}}), nil
	case kind == "profile" && name != "":
		file.Profile = name
		providers = []credentials.Provider{file}
	case kind == "file" && name != "":
		if _, err := os.Stat(name); err != nil {
			return nil, fmt.Errorf("remote: credentials: %w", err)
		}
		file.Filename = name
		providers = []credentials.Provider{file}
	default:
		return nil, fmt.Errorf("remote: credentials %q are none of env, profile:NAME, file:PATH, iam and anonymous", choice)
	}
	c := credentials.New(&credentials.Chain{Providers: providers})
	v, err := c.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
	if err != nil {
		return nil, fmt.Errorf("remote: credentials: %w", err)
	}
	if v.AccessKeyID == "" {
		return nil, fmt.Errorf("remote: %w: %s", ErrNoCredentials, lacking(kind, name))
	}
	return c, nil
}

// lacking says what to do where a choice of credentials has none.
func lacking(kind, name string) string {
	switch kind {
	case "env":
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	case "profile":
		return fmt.Sprintf("the shared credentials file, ~/.aws/credentials or $AWS_SHARED_CREDENTIALS_FILE, has no keys in a profile %q", name)
	case "file":
		return name + " has no keys in the profile default, or in $AWS_PROFILE"
	case "iam":
		return "this machine has no role"
	}
	return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with a role"
}
