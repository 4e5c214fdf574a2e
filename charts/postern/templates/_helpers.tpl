{{/* Names start with this: the release's name, which is "postern" as a rule. */}}
{{- define "postern.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Names of cluster-scoped objects: two releases in two namespaces must not meet. */}}
{{- define "postern.clusterName" -}}
{{- $name := include "postern.name" . -}}
{{- if eq .Release.Namespace (printf "%s-system" $name) -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace $name -}}
{{- end -}}
{{- end -}}

{{- define "postern.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "postern.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name says which one to use when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Which pods are this operator's. The NetworkPolicies of the gateways name the first two labels. */}}
{{- define "postern.selectorLabels" -}}
app.kubernetes.io/name: postern
app.kubernetes.io/component: controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "postern.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: postern
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: postern
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* A digest says more than a tag, so it wins; the tag stays in the name for people. */}}
{{- define "postern.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if .Values.image.digest -}}
{{- if .Values.image.tag -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- end -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "postern.auditClaim" -}}
{{- default (printf "%s-audit" (include "postern.name" .)) .Values.audit.persistence.existingClaim -}}
{{- end -}}

{{/* "yes" where the claim of the audit log can be used by the pods of one node only. */}}
{{- define "postern.auditOnOneNode" -}}
{{- if and .Values.audit.persistence.enabled (not (has "ReadWriteMany" .Values.audit.persistence.accessModes)) -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail "replicas above 1 need a claim of the audit log that several nodes can use: audit.persistence.accessModes=[ReadWriteMany], or audit.persistence.enabled=false" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}
