package loginconf

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	defaults := Settings{SSHServer: DefaultServer, SSHFS: true, MkHomeDir: true}
	for name, c := range map[string]struct {
		files map[string]string
		want  Settings
	}{
		"nothing there": {nil, defaults},
		"ours":          {map[string]string{Path: string(Settings{AuthType: Primary, SSHServer: "a", SSHOptions: []string{"-p", "22"}}.Text())}, Settings{AuthType: Primary, SSHServer: "a", SSHOptions: []string{"-p", "22"}}},
		"LTSP's wins": {map[string]string{Path: string(defaults.Text()), ExtraPath: "# a hook\nSSHFS=0\nexport SSH_SERVER=\"b\" # there\nSSH_OPTIONS='-C -4'\n"},
			Settings{SSHServer: "b", SSHOptions: []string{"-C", "-4"}, MkHomeDir: true}},
		"the last one wins":     {map[string]string{ExtraPath: "SSHFS=0\nSSHFS=1; MKHOMEDIR=0\nMKHOMEDIR=0"}, Settings{SSHServer: DefaultServer, SSHFS: true}},
		"shell is not run":      {map[string]string{ExtraPath: "if true; then\n  SSH_SERVER=$(reboot)\nfi\nSSH_SERVER_X=1\nSSHFS = 0\n"}, Settings{SSHServer: "$(reboot)", SSHFS: true, MkHomeDir: true}},
		"a value that is empty": {map[string]string{ExtraPath: "SSH_SERVER=\nSSH_OPTIONS=  # none\n"}, defaults},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := fstest.MapFS{}
			for path, text := range c.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := Load(root)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadRefusesHugeFiles(t *testing.T) {
	t.Parallel()
	if _, err := Load(fstest.MapFS{ExtraPath: &fstest.MapFile{Data: make([]byte, maxFile+1)}}); err == nil {
		t.Error("it was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("SSHFS='0\nSSH_SERVER=\"a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for k := range Parse(text) {
			if k == "" {
				t.Error("a value without a name")
			}
		}
	})
}
