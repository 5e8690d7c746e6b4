package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/config"
)

// What a line of .env makes of a value.
func TestDotenv(t *testing.T) {
	t.Parallel()
	const name = "PELTON_PRODUCE__MESSAGE"
	for _, tc := range []struct{ content, want, source string }{
		{name + "=hi", "hi", ".env:1"}, // no line's end
		{name + "=hi\r\nOTHER=x\r\n", "hi", ".env:1"},
		{"OTHER=x\r" + name + "=hi\r", "hi", ".env:2"},
		{"\ufeff" + name + "=hi\n", "hi", ".env:1"},
		{"# a comment\n\n  export\t" + name + " = hi there  \n", "hi there", ".env:3"},
		{name + "=hi # a comment\n", "hi", ".env:1"},
		{name + "=hi#there\n", "hi#there", ".env:1"},
		{name + "=#hi\n", "#hi", ".env:1"},
		{name + "= # a comment\n", "", "default"},
		{name + "=\n", "", "default"},
		{name + "=''\n", "", "default"},
		{name + "=a=b=\n", "a=b=", ".env:1"},
		{name + `='a "b" $HOME \n # c' # a comment` + "\n", `a "b" $HOME \n # c`, ".env:1"},
		{name + `="a 'b' \"c\" \\ \n \t \$HOME \x"` + "\n", "a 'b' \"c\" \\ \n \t $HOME \\x", ".env:1"},
		{name + "=\"two\nlines\"\nPELTON_PRODUCE__KEY=k\n", "two\nlines", ".env:1"},
		{name + "='two\nlines'\n", "two\nlines", ".env:1"},
		{name + `=C:\new\table` + "\n", `C:\new\table`, ".env:1"},
		{"A=x\n" + name + "=$A-${A}y$A\n", "x-xyx", ".env:2"},
		{"A=x\n" + name + "='$A'\n", "$A", ".env:2"},
		{"A=x\n" + name + "=\"$A\"\n", "x", ".env:2"},
		{name + "=${GIVEN}\nGIVEN=file\n", "environment", ".env:1"},
		{"GIVEN=file\n" + name + "=${GIVEN}\n", "environment", ".env:2"},
		{name + "=${NONE:-otherwise}\n", "otherwise", ".env:1"},
		{name + "=5$ $1 a$$ \\$A $\n", "5$ $1 a$$ $A $", ".env:1"},
		{name + "=first\n" + name + "=last\n", "last", ".env:2"},
		{name + "=first\n" + name + "=\n", "", "default"},
		{"Other.Name-1='x'y\nA=${\n2=3\n" + name + "=hi\n", "hi", ".env:4"},
	} {
		t.Run(tc.content, func(t *testing.T) {
			t.Parallel()
			c := load(t, config.Options{Dir: folder(t, map[string]string{".env": tc.content}), Environ: []string{"GIVEN=environment"}})
			if got := c.Produce.Message; got != tc.want || c.Source("produce.message") != tc.source {
				t.Errorf("%q from %s, want %q from %s", got, c.Source("produce.message"), tc.want, tc.source)
			}
		})
	}
}

func TestDotenvErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ content, want string }{
		{"A=1\nPELTON_WORKER__GRASE=1s\n", ".env:2: PELTON_WORKER__GRASE: worker.grase is unknown, did you mean PELTON_WORKER__GRACE?"},
		{"A=1\nPELTON_WORKER__GRACE=soon\n", ".env:2: worker.grace must be a duration such as 500ms, 25s or 1h30m, got soon"},
		{"PELTON_PRODUCE__KEY='1\n\nPELTON_WORKER__GRACE=1s\n", ".env:1: PELTON_PRODUCE__KEY has a quote ' that is never closed"},
		{"\n\nDISCORD_TOKEN=\"1\\\"", ".env:3: DISCORD_TOKEN has a quote \" that is never closed"},
		{"PELTON_NATS__URL='nats://a' canary\n", ".env:1: nats.url must have nothing behind its closing quote"},
		{"PELTON_WORKER__GRACE 5s\n", ".env:1: PELTON_WORKER__GRACE must be written PELTON_WORKER__GRACE=value"},
		{"DISCORD_TOKEN: canary\n", ".env:1: DISCORD_TOKEN must be written DISCORD_TOKEN=value"},
		{"DISCORD_TOKEN canary=\n", ".env:1: DISCORD_TOKEN must be written DISCORD_TOKEN=value"},
		{"DISCORD_TOKEN=${canary\n", ".env:1: discord.token has a ${ that is never closed; single quotes keep a $"},
		{"DISCORD_TOKEN=a${can-ary!}\n", ".env:1: discord.token must name a variable within ${ and }; single quotes keep a $"},
		{"\xff\xfeD\x00", ".env: must be UTF-8, this is UTF-16"},
		{"PELTON_PRODUCE__KEY=\xff\n", ".env:1: produce.key must be UTF-8"},
		{"A=" + strings.Repeat("x", 1<<10) + "\nB=" + strings.Repeat("$A", 600) + "\nPELTON_PRODUCE__KEY=" + strings.Repeat("$B", 600) + "\n", ".env:3: produce.key must not grow over 1MiB by the variables in it"},
		{strings.Repeat("# much\n", 200_000), "settings: must name a file of at most 1MiB, got .env"},
		{"COMMANDS_TOPIC=a b\n", ".env:1: produce.topic must be a topic name"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Options{Dir: folder(t, map[string]string{".env": tc.content}), Part: config.PartProduce})
			if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), tc.want) {
				t.Fatalf("got  %v\nwant %s", err, tc.want)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("a secret is told: %v", err)
			}
		})
	}
}

func TestDotenvWarnings(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{Dir: folder(t, map[string]string{
		".env": "DISCORD_TOKEN=abc$canary\nOTHER=$canary\nsome canary\nNAME\nexport NAME\n",
	})})
	want := []string{
		".env:3: must be NAME=value, the line is passed over",
		".env:1: DISCORD_TOKEN: a variable in it is not set and stands for nothing; single quotes keep a $",
	}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Error(diff)
	}
	if got := c.Discord.Token.Reveal(); got != "abc" {
		t.Errorf("the token is %q", got)
	}
}

// A quote too many in a line of another program takes none of ours with it.
func TestDotenvQuotesOfOthers(t *testing.T) {
	t.Parallel()
	for _, content := range []string{
		"A='it\nPELTON_PRODUCE__KEY=k\n",
		"A=\"it\nPELTON_PRODUCE__KEY=k",
		"A='it\nPELTON_PRODUCE__KEY=k\nB='x'\n",
		"A='it\nB='x'\nPELTON_PRODUCE__KEY='k'\n",
	} {
		c := load(t, config.Options{Dir: folder(t, map[string]string{".env": content})})
		want := ".env:1: A has a quote " + content[2:3] + " that is never closed, the line is passed over"
		if c.Produce.Key != "k" || len(c.Warnings) != 1 || c.Warnings[0] != want {
			t.Errorf("%q: key %q, warnings %q", content, c.Produce.Key, c.Warnings)
		}
	}
}

// A folder as the ones that these programs are started in today.
func TestForeignDotenv(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{".env": `KAFKA_BOOTSTRAP_SERVERS=localhost:9092
COMMANDS_TOPIC="commands"
CONSUMER_GROUP=consumers
AUTO_OFFSET_RESET=earliest
DISCORD_TOKEN=MTI5.abc.def
ANNOUNCEMENT_CHANNEL_ID=1298001
LOG_LEVEL=DEBUG
`})
	for part, topic := range map[config.Part]func(*config.Config) string{
		config.PartProduce: func(c *config.Config) string { return c.Produce.Topic },
		config.PartIngest:  func(c *config.Config) string { return c.Edges.Ingest["commands"].Topics[0] },
	} {
		c := load(t, config.Options{Dir: dir, Part: part})
		if topic(c) != "commands" || c.Kafka.Brokers[0] != "localhost:9092" || c.Discord.Token.Reveal() != "MTI5.abc.def" || c.Edges.Speak.Channel != "1298001" {
			t.Errorf("%s: %+v", part, c.Settings)
		}
		// The group's offsets are another program's: taking them over would stop the
		// edge, and both at once would share the partitions.
		if c.Edges.Ingest["commands"].Group != "" || len(c.Warnings) > 0 {
			t.Errorf("%s: group %q, warnings %q", part, c.Edges.Ingest["commands"].Group, c.Warnings)
		}
	}
	// The topic of a .env file names the route, where its name is fit for it.
	c := load(t, config.Options{Dir: folder(t, map[string]string{".env": "COMMANDS_TOPIC=orders\n"}), Part: config.PartIngest})
	if diff := cmp.Diff([]string{"orders"}, c.Names); diff != "" {
		t.Error(diff)
	}
}
