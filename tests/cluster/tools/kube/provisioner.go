package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-helpers/storage/volume"
)

// provisionerName is what a StorageClass says in `provisioner`. Its
// volumeBindingMode must be WaitForFirstConsumer: a directory has no node
// until the scheduler chose one.
const provisionerName = "postern.dev/local"

// provisioner turns claims into directories. Volumes are of type `local`, not
// `hostPath`: kubelet then applies fsGroup, as it does on a real disk.
type provisioner struct {
	client    kubernetes.Interface
	directory string
	claims    corelisters.PersistentVolumeClaimLister
	volumes   corelisters.PersistentVolumeLister
	classes   storagelisters.StorageClassLister
}

func runLocalProvisioner() int {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	directory := flag.String("directory", "", "where volumes live, one directory each")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := provision(ctx, *kubeconfig, *directory); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// provision looks at the whole set of claims and volumes after every change.
func provision(ctx context.Context, kubeconfig, directory string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims()
	volumes := factory.Core().V1().PersistentVolumes()
	classes := factory.Storage().V1().StorageClasses()

	dirty := make(chan struct{}, 1)
	mark := func() {
		select {
		case dirty <- struct{}{}:
		default: // a look is already due
		}
	}
	for _, informer := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer(), classes.Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { mark() },
			UpdateFunc: func(any, any) { mark() },
			DeleteFunc: func(any) { mark() },
		}); err != nil {
			return err
		}
	}
	p := &provisioner{client, directory, claims.Lister(), volumes.Lister(), classes.Lister()}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	retry := time.NewTicker(5 * time.Second)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-dirty:
		case <-retry.C:
		}
		p.reconcile(ctx)
	}
}

// reconcile never stops at a failure: the next look tries again.
func (p *provisioner) reconcile(ctx context.Context) {
	claims, _ := p.claims.List(labels.Everything()) // a cache: cannot fail
	for _, claim := range claims {
		if !p.ours(claim.Spec.StorageClassName) {
			continue
		}
		var err error
		switch claim.Status.Phase {
		case core.ClaimPending:
			err = p.create(ctx, claim)
		case core.ClaimBound:
			err = p.expand(ctx, claim)
		case core.ClaimLost:
		}
		report("claim "+claim.Namespace+"/"+claim.Name, err)
	}
	volumes, _ := p.volumes.List(labels.Everything())
	for _, pv := range volumes {
		if pv.Annotations[volume.AnnDynamicallyProvisioned] == provisionerName {
			report("volume "+pv.Name, p.remove(ctx, pv))
		}
	}
}

func (p *provisioner) ours(className *string) bool {
	if className == nil {
		return false
	}
	class, err := p.classes.Get(*className)
	return err == nil && class.Provisioner == provisionerName
}

// create makes directory and volume once the scheduler has chosen a node.
func (p *provisioner) create(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	node := claim.Annotations[volume.AnnSelectedNode]
	name := "pvc-" + string(claim.UID)
	if node == "" || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	if _, err := p.volumes.Get(name); err == nil {
		return nil // made before, the controller is about to bind it
	}
	class, err := p.classes.Get(*claim.Spec.StorageClassName)
	if err != nil {
		return err
	}
	path := filepath.Join(p.directory, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	pv := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: provisionerName},
		},
		Spec: core.PersistentVolumeSpec{
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: *class.ReclaimPolicy, // the API server defaults it
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			NodeAffinity:                  onlyOn(node),
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
		},
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, pv, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		fmt.Printf("created %s for %s/%s on %s\n", name, claim.Namespace, claim.Name, node)
	}
	return err
}

func onlyOn(node string) *core.VolumeNodeAffinity {
	return &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
		MatchExpressions: []core.NodeSelectorRequirement{{
			Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node},
		}},
	}}}}
}

// expand grants a larger size at once: a directory has no size of its own.
func (p *provisioner) expand(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	wanted := claim.Spec.Resources.Requests[core.ResourceStorage]
	granted := claim.Status.Capacity[core.ResourceStorage]
	if wanted.Cmp(granted) <= 0 {
		return nil
	}
	capacity := fmt.Sprintf(`{"capacity":{"storage":%q}}`, wanted.String())
	if _, err := p.client.CoreV1().PersistentVolumes().Patch(ctx, claim.Spec.VolumeName,
		types.MergePatchType, []byte(`{"spec":`+capacity+`}`), meta.PatchOptions{}); err != nil {
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name,
		types.MergePatchType, []byte(`{"status":`+capacity+`}`), meta.PatchOptions{}, "status")
	return err
}

// remove deletes a released volume and what was in it. The path comes from the
// volume's name, so that no volume edited by hand makes us delete anything else.
func (p *provisioner) remove(ctx context.Context, pv *core.PersistentVolume) error {
	if pv.Status.Phase != core.VolumeReleased ||
		pv.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.directory, pv.Name)); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, meta.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		fmt.Printf("deleted %s\n", pv.Name)
	}
	return err
}

func report(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	}
}
