package connect

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"pelton/internal/connect/connecttest"
)

// newUser is the seed of a user and its public key.
func newUser(t *testing.T) (seed []byte, public string) {
	t.Helper()
	return newKeys(t, nkeys.CreateUser)
}

func newKeys(t *testing.T, create func() (nkeys.KeyPair, error)) (seed []byte, public string) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	if seed, err = pair.Seed(); err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return seed, public
}

func encode(t *testing.T, claims jwt.Claims, seed []byte) string {
	t.Helper()
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := claims.Encode(pair)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A server that trusts an operator takes a user's credentials file, and not one
// that another account has signed.
func TestCredentialsFile(t *testing.T) {
	t.Parallel()
	operatorSeed, operator := newKeys(t, nkeys.CreateOperator)
	accountSeed, account := newKeys(t, nkeys.CreateAccount)
	foreignSeed, _ := newKeys(t, nkeys.CreateAccount)
	_, system := newKeys(t, nkeys.CreateAccount)
	s := natsServer(t, fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n",
		encode(t, jwt.NewOperatorClaims(operator), operatorSeed), system,
		account, encode(t, jwt.NewAccountClaims(account), operatorSeed),
		system, encode(t, jwt.NewAccountClaims(system), operatorSeed)))
	for _, tc := range []struct {
		name   string
		signer []byte
		ok     bool
	}{{"its account", accountSeed, true}, {"a foreign account", foreignSeed, false}} {
		userSeed, user := newUser(t)
		creds, err := jwt.FormatUserConfig(encode(t, jwt.NewUserClaims(user), tc.signer), userSeed)
		if err != nil {
			t.Fatal(err)
		}
		file := connecttest.File(t, t.TempDir(), "joe.creds", creds)
		// The flag wins over other credentials of the settings.
		_, err = dial(t, []string{"NATS_URL=nats://" + address(s), "PELTON_NATS__TOKEN=other"}, "--creds="+file)
		if tc.ok && err != nil || !tc.ok && !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
