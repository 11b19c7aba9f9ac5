package vault

import (
	"fmt"
	"os"
	"strings"
)

// refusalOf explains the codes that an administrator can do something about; for others it returns "".
func refusalOf(id Identity, code int) (fact, hint string) {
	switch code {
	case 7000222:
		return "the secret has expired", renewSecret(id)
	case 7000215:
		return "the secret is wrong", fmt.Sprintf("%s must hold the secret's value, not its id; or %s", secretPlace(id), renewSecret(id))
	case 700016:
		return tenantOf(id) + " has no such application",
			"check that the client id is that of an application of this tenant: az ad app show --id " + argument(id.ClientID, "CLIENT-ID")
	case 7000229:
		return "the application has no service principal in " + tenantOf(id), "make one: az ad sp create --id " + argument(id.ClientID, "CLIENT-ID")
	case 7000112:
		return "the application is disabled", "enable it: az ad sp update --id " + argument(id.ClientID, "CLIENT-ID") + " --set accountEnabled=true"
	case 90002, 900023:
		return "this login server does not know " + tenantOf(id), "check the tenant id, and the authority if the tenant belongs to another cloud: az account show --query tenantId"
	case 700027:
		return "the certificate is not one of the application's, or has expired", fmt.Sprintf(
			"register the certificate of %s, without its key: az ad app credential reset --id %s --append --cert @PUBLIC.pem", certificatePlace(id), argument(id.ClientID, "CLIENT-ID"))
	case 700024:
		return "what was shown to prove the identity is not valid at this time", "check this machine's clock, and that the certificate or token has not expired"
	case 70021, 700211, 700212, 700213:
		return "the application does not trust the token that was shown", trustCommand(id)
	case 500011, 50001:
		return "the vault's cloud is unknown to this login server in " + tenantOf(id), "use an identity of the vault's cloud and tenant, and check the authority"
	case 53003:
		return "a conditional access policy forbids it", "admit this workload in the conditional access policies of " + tenantOf(id)
	}
	return "", ""
}

// tenantOf names the directory of id; that of ambient credentials is in the environment.
func tenantOf(id Identity) string {
	if id.TenantID == "" {
		return "the tenant in AZURE_TENANT_ID"
	}
	return "the tenant " + folded(id.TenantID)
}

// secretPlace says where the secret of id is kept.
func secretPlace(id Identity) string {
	if id.Method == ServicePrincipal {
		return folded(id.SecretFile)
	}
	return "AZURE_CLIENT_SECRET"
}

func certificatePlace(id Identity) string {
	if id.Method == ServicePrincipal {
		return folded(id.CertificateFile)
	}
	return "AZURE_CLIENT_CERTIFICATE_PATH"
}

// renewSecret is how a new secret comes to where it is needed. kvfs reads a file again by itself, which holds the old secret
// until az has the new one, and is nobody else's to read.
func renewSecret(id Identity) string {
	command := "az ad app credential reset --append --id " + argument(id.ClientID, "CLIENT-ID") + " --query password --output tsv"
	if id.Method == ServicePrincipal {
		file := argument(id.SecretFile, "SECRET-FILE")
		return fmt.Sprintf("make a new one: (umask 077; %s > %s.new) && mv %s.new %s", command, file, file, file)
	}
	return "make a new one, put it into AZURE_CLIENT_SECRET and restart kvfs: " + command
}

// trustCommand is how the application comes to trust the token that was shown, as far as that can be read.
func trustCommand(id Identity) string {
	file := id.TokenFile
	if id.Method == Ambient {
		file = os.Getenv("AZURE_FEDERATED_TOKEN_FILE")
	}
	claims := shownClaims(file)
	return fmt.Sprintf(`let it trust the token's issuer and subject: az ad app federated-credential create --id %s --parameters '{"name":"kvfs","issuer":"%s","subject":"%s","audiences":["%s"]}'`,
		argument(id.ClientID, "CLIENT-ID"), argument(claims.Issuer, "ISSUER"), argument(claims.Subject, "SUBJECT"), argument(claims.Audience, "AUDIENCE"))
}

// argument returns s if it can stand in a command to paste as it is, else placeholder. az reads the file that follows an @.
func argument(s, placeholder string) string {
	if s == "" || len(s) > 300 || s[0] == '-' || s[0] == '@' {
		return placeholder
	}
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && !strings.ContainsRune("-._:/@+=,", rune(c)) {
			return placeholder
		}
	}
	return s
}
