{{- define "matins.labels" -}}
app.kubernetes.io/name: matins
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What a Service and a StatefulSet select by; takes (dict "root" . "part" "node"). */}}
{{- define "matins.selector" -}}
app.kubernetes.io/name: matins
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "matins.name" -}}
{{ printf "%s-matins" .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "matins.tag" -}}
{{ .Values.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The host name of the node with this number, as every pod reaches it; takes (list root number). */}}
{{- define "matins.host" -}}
{{- $root := index . 0 -}}
{{ include "matins.name" $root }}-{{ index . 1 }}.{{ include "matins.name" $root }}-nodes.{{ $root.Release.Namespace }}.svc
{{- end }}

{{/* Every name by which the cluster can ask a node: both services, with each of the ends that its search list adds. */}}
{{- define "matins.publicHosts" -}}
{{- $name := include "matins.name" . -}}
{{- $hosts := list -}}
{{- range $end := list "" (printf ".%s" .Release.Namespace) (printf ".%s.svc" .Release.Namespace) (printf ".%s.svc.%s" .Release.Namespace .Values.clusterDomain) -}}
{{- $hosts = concat $hosts (list (printf "%s%s" $name $end) (printf "%s-nodes%s" $name $end) (printf "*.%s-nodes%s" $name $end)) -}}
{{- end -}}
{{ join "," (concat $hosts .Values.nodes.publicHosts) }}
{{- end }}

{{- define "matins.clusterPorts" -}}
{{- $root := . -}}
{{- $ports := list -}}
{{- range $number := until (int .Values.nodes.count) -}}
{{- $ports = append $ports (printf "%s:7071" (include "matins.host" (list $root $number))) -}}
{{- end -}}
{{ join "," $ports }}
{{- end }}

{{- define "matins.container.security" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
{{- end }}

{{- define "matins.pod.security" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}
