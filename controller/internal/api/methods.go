package api

import (
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// access says who may call a method.
type access struct {
	roles     []pki.Role
	anonymous bool // also who has no certificate
	expired   bool // also whose certificate expired within the grace period
}

func (a access) allows(role pki.Role) bool { return slices.Contains(a.roles, role) }

// methods is the table of all that may be called, by full name. What is not in it is denied.
func methods() map[string]access {
	anyone := access{roles: []pki.Role{pki.Admin, pki.Satellite}, anonymous: true, expired: true}
	holder := access{roles: []pki.Role{pki.Admin, pki.Satellite}, expired: true}
	admin := access{roles: []pki.Role{pki.Admin}}
	satellite := access{roles: []pki.Role{pki.Satellite}}
	return map[string]access{
		satellitev1.EnrolmentService_Enrol_FullMethodName: anyone,
		satellitev1.EnrolmentService_Renew_FullMethodName: holder,

		satellitev1.LinkService_Connect_FullMethodName:     satellite,
		satellitev1.LinkService_GetManifest_FullMethodName: satellite,
		satellitev1.LinkService_PlanSync_FullMethodName:    satellite,
		satellitev1.LinkService_GetPolicy_FullMethodName:   satellite,

		chunkv1.ChunkService_FindMissing_FullMethodName: admin,
		chunkv1.ChunkService_PutChunks_FullMethodName:   admin,
		methodFetch: satellite,

		adminv1.ImageService_PublishVersion_FullMethodName:  admin,
		adminv1.ImageService_ListImages_FullMethodName:      admin,
		adminv1.ImageService_GetImage_FullMethodName:        admin,
		adminv1.ImageService_SetChannel_FullMethodName:      admin,
		adminv1.ImageService_RollbackChannel_FullMethodName: admin,
		adminv1.ImageService_DeleteVersion_FullMethodName:   admin,
		adminv1.ImageService_DeleteImage_FullMethodName:     admin,
		adminv1.ImageService_GetManifest_FullMethodName:     admin,
		adminv1.ImageService_DiffVersions_FullMethodName:    admin,
		adminv1.ImageService_GetDelta_FullMethodName:        admin,
		adminv1.ImageService_ListSyncPlans_FullMethodName:   admin,

		adminv1.SiteService_CreateSite_FullMethodName: admin,
		adminv1.SiteService_UpdateSite_FullMethodName: admin,
		adminv1.SiteService_ListSites_FullMethodName:  admin,
		adminv1.SiteService_GetSite_FullMethodName:    admin,
		adminv1.SiteService_DeleteSite_FullMethodName: admin,

		adminv1.SubnetService_CreateSubnet_FullMethodName: admin,
		adminv1.SubnetService_UpdateSubnet_FullMethodName: admin,
		adminv1.SubnetService_ListSubnets_FullMethodName:  admin,
		adminv1.SubnetService_DeleteSubnet_FullMethodName: admin,

		adminv1.SatelliteService_ListSatellites_FullMethodName:  admin,
		adminv1.SatelliteService_GetSatellite_FullMethodName:    admin,
		adminv1.SatelliteService_RevokeSatellite_FullMethodName: admin,
		adminv1.SatelliteService_DeleteSatellite_FullMethodName: admin,

		adminv1.ClientService_ListClients_FullMethodName:      admin,
		adminv1.ClientService_GetClient_FullMethodName:        admin,
		adminv1.ClientService_SetClient_FullMethodName:        admin,
		adminv1.ClientService_DeleteClient_FullMethodName:     admin,
		adminv1.ClientService_CommandClients_FullMethodName:   admin,
		adminv1.ClientService_ListClientEvents_FullMethodName: admin,

		adminv1.PolicyService_GetPolicy_FullMethodName:          admin,
		adminv1.PolicyService_ApplyPolicy_FullMethodName:        admin,
		adminv1.PolicyService_PlanPolicy_FullMethodName:         admin,
		adminv1.PolicyService_ListPolicies_FullMethodName:       admin,
		adminv1.PolicyService_ListPolicyVersions_FullMethodName: admin,
		adminv1.PolicyService_UndoPolicy_FullMethodName:         admin,
		adminv1.PolicyService_ExplainClient_FullMethodName:      admin,

		adminv1.TokenService_CreateToken_FullMethodName: admin,
		adminv1.TokenService_ListTokens_FullMethodName:  admin,
		adminv1.TokenService_RevokeToken_FullMethodName: admin,

		adminv1.AuditService_ListAudit_FullMethodName: admin,

		adminv1.ServerService_GetVersion_FullMethodName: admin,
		adminv1.ServerService_Watch_FullMethodName:      admin,
	}
}
