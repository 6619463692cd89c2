// Package kubernetes holds manifests. Its test does to them what kubectl and
// the API server do, as far as that goes without a cluster.
package kubernetes

import (
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func build(t *testing.T, fs filesys.FileSystem, dir string) resmap.ResMap {
	t.Helper()
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// decode is strict as the API server: an unknown or doubled field, and one
// whose case is wrong, is an error.
func decode(t *testing.T, text []byte) (runtime.Object, error) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	s := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	o, _, err := s.Decode(text, nil, nil)
	return o, err
}

type objects struct {
	deployment *appsv1.Deployment
	configMap  *corev1.ConfigMap
	secret     *corev1.Secret
}

func example(t *testing.T) (o objects) {
	t.Helper()
	for _, r := range build(t, filesys.MakeFsOnDisk(), "example").Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(t, text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		switch v := got.(type) {
		case *appsv1.Deployment:
			o.deployment = v
		case *corev1.ConfigMap:
			o.configMap = v
		case *corev1.Secret:
			o.secret = v
		}
	}
	if o.deployment == nil || o.configMap == nil || o.secret == nil {
		t.Fatalf("something is missing: %+v", o)
	}
	return o
}

func TestStrict(t *testing.T) {
	o := example(t)
	if o.deployment.Name == "" {
		t.Error("the deployment has no name")
	}
	// What the check would catch.
	for _, wrong := range []string{
		"apiVersion: apps/v1\nkind: Deployment\nspec: {replica: 1}\n",
		"apiVersion: apps/v1\nkind: Deployment\nspec: {Replicas: 1}\n",
		"apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 1, replicas: 2}\n",
		"apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: one}\n",
		"apiVersion: apps/v1\nkind: Deploiment\n",
	} {
		if _, err := decode(t, []byte(wrong)); err == nil {
			t.Errorf("this passes:\n%s", wrong)
		}
	}
}

func sidecar(t *testing.T, d *appsv1.Deployment) *corev1.Container {
	t.Helper()
	c := &d.Spec.Template.Spec.InitContainers[0]
	if c.Name != "nearside" {
		t.Fatalf("the first init container is %s: those before nearside could not use it", c.Name)
	}
	return c
}

func TestSidecar(t *testing.T) {
	o := example(t)
	c := sidecar(t, o.deployment)
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("without restartPolicy: Always the pod would wait for its end")
	}
	port := map[string]int32{}
	for _, p := range c.Ports {
		port[p.Name] = p.ContainerPort
	}
	for name, p := range map[string]*corev1.Probe{"/readyz startup": c.StartupProbe, "/readyz": c.ReadinessProbe, "/healthz": c.LivenessProbe} {
		path, _, _ := strings.Cut(name, " ")
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || port[p.HTTPGet.Port.StrVal] == 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if got := o.deployment.Spec.Template.Annotations["prometheus.io/port"]; got != "9380" || port["nearside-admin"] != 9380 {
		t.Errorf("scraped at %s, listening at %v", got, port)
	}
	// 2×cache.memory + buffers + 128 MiB of the sample, and nearside keeps to 90 %.
	if limit := c.Resources.Limits.Memory().Value(); limit*9/10 < (2*64+128+128)<<20 {
		t.Errorf("%d bytes of memory are less than it may need", limit)
	}
	if !c.Resources.Limits.Cpu().IsZero() {
		t.Error("a limit of CPU throttles the application's requests")
	}
}

// The pod is not killed while its clients still have time to get their answers, and
// the admin endpoints, which listen beyond loopback, get a token that is long enough.
func TestDrainAndToken(t *testing.T) {
	o := example(t)
	grace := int64(30) // Kubernetes's default
	if s := o.deployment.Spec.Template.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = *s
	}
	m := regexp.MustCompile(`(?m)^drain: (\S+)`).FindStringSubmatch(o.configMap.Data["nearside.yaml"])
	if m == nil {
		t.Fatal("drain is not said")
	}
	drain, err := time.ParseDuration(m[1])
	if err != nil || drain+5*time.Second > time.Duration(grace)*time.Second {
		t.Errorf("drain %s (%v), but the pod is killed after %d s", drain, err, grace)
	}
	for _, e := range sidecar(t, o.deployment).Env {
		if e.Name == "NEARSIDE_ADMIN_TOKEN" && e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			if n := len(o.secret.Data[e.ValueFrom.SecretKeyRef.Key]); n < 16 {
				t.Errorf("a token of %d bytes", n)
			}
			return
		}
	}
	t.Error("there is no token")
}

// What is referred to is there, under the names that kustomize gave.
func TestReferences(t *testing.T) {
	o := example(t)
	c := sidecar(t, o.deployment)
	var file string
	for _, e := range c.Env {
		switch {
		case e.Name == "NEARSIDE_CONFIG":
			file = e.Value
		case e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil:
			ref := e.ValueFrom.SecretKeyRef
			if _, ok := o.secret.Data[ref.Key]; ref.Name != o.secret.Name || !ok {
				t.Errorf("%s refers to %s in %s", e.Name, ref.Key, ref.Name)
			}
		}
	}
	volumes := map[string]string{}
	for _, v := range o.deployment.Spec.Template.Spec.Volumes {
		if v.ConfigMap != nil {
			volumes[v.Name] = v.ConfigMap.Name
		}
	}
	for _, m := range c.VolumeMounts {
		if key, ok := strings.CutPrefix(file, m.MountPath+"/"); ok && volumes[m.Name] == o.configMap.Name && o.configMap.Data[key] != "" {
			return
		}
	}
	t.Errorf("no volume brings %s: %+v, %+v", file, c.VolumeMounts, volumes)
}

// The namespace may enforce the strictest of the Pod Security Standards.
func TestRestricted(t *testing.T) {
	ev, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := psapi.LevelVersion{Level: psapi.LevelRestricted, Version: psapi.LatestVersion()}
	pod := example(t).deployment.Spec.Template
	if r := policy.AggregateCheckResults(ev.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec)); !r.Allowed {
		t.Error(r.ForbiddenReason(), r.ForbiddenDetail())
	}
	pod.Spec.InitContainers[0].SecurityContext.RunAsNonRoot = new(bool)
	if policy.AggregateCheckResults(ev.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec)).Allowed {
		t.Error("a sidecar that may be root passes")
	}
}

// Another application: nearside comes before its own init containers, and only
// where the label asks for it.
func TestComponent(t *testing.T) {
	fs := filesys.MakeFsInMemory()
	for _, name := range []string{"kustomization.yaml", "patch.yaml", "nearside.yaml"} {
		b, err := filesys.MakeFsOnDisk().ReadFile("sidecar/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.WriteFile("/sidecar/"+name, b); err != nil {
			t.Fatal(err)
		}
	}
	const app = `apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, labels: {nearside: LABEL}}
spec:
  template:
    spec:
      initContainers:
        - {name: migrate, image: m}
      containers:
        - {name: app, image: a}
`
	write := func(name, text string) {
		if err := fs.WriteFile("/app/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("kustomization.yaml", "resources: [a.yaml, b.yaml]\ncomponents: [../sidecar]\n")
	write("a.yaml", strings.NewReplacer("NAME", "a", "LABEL", "sidecar").Replace(app))
	write("b.yaml", strings.NewReplacer("NAME", "b", "LABEL", "none").Replace(app))
	want := map[string]string{"a": "nearside migrate", "b": "migrate"}
	for _, r := range build(t, fs, "/app").Resources() {
		if r.GetKind() != "Deployment" {
			continue
		}
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		o, err := decode(t, text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		d, ok := o.(*appsv1.Deployment)
		if !ok {
			t.Fatalf("%T", o)
		}
		var names []string
		for _, c := range d.Spec.Template.Spec.InitContainers {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != want[d.Name] {
			t.Errorf("%s: %s, want %s", d.Name, got, want[d.Name])
		}
		delete(want, d.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// What the document tells an application to write, with a copy of the component.
func TestDocumentedKustomization(t *testing.T) {
	fs := filesys.MakeFsInMemory()
	put := func(name string, text []byte) {
		t.Helper()
		if err := fs.WriteFile("/app/"+name, text); err != nil {
			t.Fatal(err)
		}
	}
	take := func(name string) []byte {
		t.Helper()
		b, err := filesys.MakeFsOnDisk().ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, name := range []string{"kustomization.yaml", "patch.yaml", "nearside.yaml"} {
		put("configs/kubernetes/sidecar/"+name, take("sidecar/"+name))
	}
	put("deployment.yaml", take("example/deployment.yaml"))
	_, text, ok := strings.Cut(string(take("../OPERATIONS.md")), "```yaml\n# kustomization.yaml")
	if !ok {
		t.Fatal("the document shows none")
	}
	text, _, _ = strings.Cut(text, "```")
	put("kustomization.yaml", []byte("resources: [deployment.yaml]\n#"+text))
	for _, r := range build(t, fs, "/app").Resources() {
		if r.GetKind() != "Deployment" {
			continue
		}
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		o, err := decode(t, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := sidecar(t, o.(*appsv1.Deployment)).Image; got != "my/nearside:v1.2.3" {
			t.Errorf("the image is %s", got)
		}
		return
	}
	t.Error("no Deployment")
}
